"""Products with the matrices of a nonlinear recurrence, and their gradients."""

import jax
import jax.numpy as jnp


def product(h_BxH, kernel):
    """h R, [..., F] in the dtype of h, gate by gate.

    Args:
      kernel: R, [H, F]; or one block a head, [N, H / N, F / N], gate by gate.
    """
    if kernel.ndim == 2:
        return (h_BxH.astype(kernel.dtype) @ kernel).astype(h_BxH.dtype)
    heads, K, _ = kernel.shape
    h_BxNxK = h_BxH.reshape(*h_BxH.shape[:-1], heads, K).astype(kernel.dtype)
    r_BxNxF = jnp.einsum("...nk,nkf->...nf", h_BxNxK, kernel)
    r_BxNxGxK = r_BxNxF.reshape(*h_BxNxK.shape[:-1], -1, K)
    r_BxF = jnp.swapaxes(r_BxNxGxK, -2, -3).reshape(*h_BxH.shape[:-1], -1)
    return r_BxF.astype(h_BxH.dtype)


def adjoint(h_CxBxH, dr_CxBxF, kernel):
    """The gradient of a kernel of `product`, from all tokens of a chunk."""
    if kernel.ndim == 2:
        rows = lambda x: x.reshape(-1, x.shape[-1]).astype(kernel.dtype)
        return rows(h_CxBxH).T @ rows(dr_CxBxF)
    return jax.linear_transpose(lambda R: product(h_CxBxH, R), kernel)(dr_CxBxF)[0]


def transposed(kernel):
    """The transpose of `product` with respect to h, for a loop."""
    if kernel.ndim == 2:
        # The barrier makes it a matrix of its own: a product that reads R by columns
        # takes up to twice as long.
        kernel_FxH = jax.lax.optimization_barrier(kernel.T)
        return lambda r_BxF: product(r_BxF, kernel_FxH)
    heads, K, _ = kernel.shape

    def apply(r_BxF):
        h_BxH = jax.ShapeDtypeStruct((*r_BxF.shape[:-1], heads * K), r_BxF.dtype)
        return jax.linear_transpose(lambda h: product(h, kernel), h_BxH)(r_BxF)[0]

    return apply


def inputs(weights, x):
    """x W + b; x itself where there are no weights."""
    if weights is None:
        return x
    kernel_DxF, bias_F = weights
    return x @ kernel_DxF + bias_F


def inputs_adjoint(weights, to_x, x, dz):
    """(gradient of the weights, of x) from all tokens of a chunk."""
    if weights is None:
        return None, dz
    kernel_DxF, bias_F = weights
    return (adjoint(x, dz, kernel_DxF), dz.sum((0, 1))), to_x(dz)
