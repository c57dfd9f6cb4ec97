"""Parameters drawn by (seed, layer, role), and the layers that every model shares."""

import functools
import math
import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits
from lm.ops import conv, deferred
from lm.ops.int8 import Int8
from lm.sequence import Sequence


def accumulator(dtype) -> jnp.dtype:
    """dtype of states, statistics and sums of activations of `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def fold(key, layer, role: str):
    """The key (or keys) of one role in one layer; independent of the pattern."""
    role_hash = zlib.crc32(role.encode())
    one = lambda k: jax.random.fold_in(jax.random.fold_in(k, role_hash), layer)
    return one(key) if key.ndim == 0 else jax.vmap(one)(key)


def parameter(module: nn.Module, name: str, init, shape, seq: Sequence):
    """A float32 parameter of `module`, drawn by (seed, absolute layer, role).

    The role is the module's path below its block, so that neither the length of the
    pattern nor the place of a block in it moves a draw (linen's own keys follow paths).
    """
    stored = module.get_variable("params", name)
    if isinstance(stored, Int8):  # which is laid out in its own way
        return stored
    path = module.path
    inner = max((i + 1 for i, part in enumerate(path) if "block_" in part), default=0)
    role = "/".join((*path[inner:], name))

    def draw(key):
        if module.is_initializing():
            key = fold(seq.key, 0 if seq.layer is None else seq.layer, role)
        return init(key, shape, jnp.float32)

    return module.param(name, draw)


def spread(w, x):
    """w [*W] for each of the N vectors of x [..., *W]: in the shape of x.

    By way of [N, *W], so that its gradient is a sum over N: where a batch has one row,
    XLA:CPU takes 35 times as long for a sum over [1, T].
    """
    rows = math.prod(x.shape[: x.ndim - w.ndim])
    return jnp.broadcast_to(w, (rows, *w.shape)).reshape(x.shape)


def _kernel_gradient(x_NxD, g_NxF):
    return x_NxD.T @ g_NxF


def _narrow_first(x_NxD, g_NxF):
    """The narrower factor on the left: XLA:CPU takes up to twice as long otherwise."""
    if x_NxD.shape[1] <= g_NxF.shape[1]:
        return x_NxD.T @ g_NxF
    return jax.lax.optimization_barrier(g_NxF.T @ x_NxD).T  # or XLA turns it back


# x^T g, the gradient of a kernel, by backend.
KERNEL_GRADIENTS = {"cpu": _narrow_first}


@jax.custom_vjp
def product(x, kernel_DxF):
    """x W of x [..., D]; its gradients are products over all tokens at once."""
    return x @ kernel_DxF


def _product_forward(x, kernel_DxF):
    return x @ kernel_DxF, (x, kernel_DxF)


def _product_backward(residuals, g):
    x, kernel_DxF = residuals
    x_NxD, g_NxF = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    form = KERNEL_GRADIENTS.get(jax.default_backend(), _kernel_gradient)
    return (g_NxF @ kernel_DxF.T).reshape(x.shape), form(x_NxD, g_NxF)


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """y = x W (+ b); the kernel is [in, out]."""

    features: int
    bias: bool = False
    init: Callable = inits.fan_in

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        shape = (x_BxTxD.shape[-1], self.features)
        kernel_DxF = parameter(self, "kernel", self.init, shape, seq)
        y_BxTxF = product(x_BxTxD, kernel_DxF.astype(x_BxTxD.dtype))
        if self.bias:
            bias_F = parameter(self, "bias", inits.zeros, (self.features,), seq)
            y_BxTxF += spread(bias_F.astype(y_BxTxF.dtype), y_BxTxF)
        return y_BxTxF


# Elementwise work whose backward pass starts from its inputs, which are there anyway:
# what it came to by the way is computed again rather than stored for each layer.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(recomputed, static_argnums=2)
def _rms_norm(x, scale, eps: float):
    x32 = x.astype(accumulator(x.dtype))
    power = jnp.mean(jnp.square(x32), -1, keepdims=True)
    return (x32 * jax.lax.rsqrt(power + eps) * spread(scale, x)).astype(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        scale_D = parameter(self, "scale", inits.ones, (x_BxTxD.shape[-1],), seq)
        return _rms_norm(x_BxTxD, scale_D, self.eps)


def standardize(x, eps: float):
    """(x - mean) / sqrt(variance + eps) over the last axis, in float32 or wider."""
    x = x.astype(accumulator(x.dtype))
    x -= jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + eps)


@functools.partial(recomputed, static_argnums=3)
def _layer_norm(x, scale, bias, eps: float):
    return (standardize(x, eps) * spread(scale, x) + spread(bias, x)).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias (Ba et al., arXiv 1607.06450)."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        scale_D = parameter(self, "scale", inits.ones, (x_BxTxD.shape[-1],), seq)
        bias_D = parameter(self, "bias", inits.zeros, (x_BxTxD.shape[-1],), seq)
        return _layer_norm(x_BxTxD, scale_D, bias_D, self.eps)


class HeadNorm(nn.Module):
    """LayerNorm of each head alone, with scales and biases of its own for each.

    The GroupNorm of RWKV and xLSTM: [B, T, H, V] -> [B, T, H, V].
    """

    eps: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x_BxTxHxV, seq: Sequence):
        shape = x_BxTxHxV.shape[-2:]
        scale_HxV = parameter(self, "scale", inits.ones, shape, seq)
        bias_HxV = parameter(self, "bias", inits.zeros, shape, seq) if self.bias else 0
        return _layer_norm(x_BxTxHxV, scale_HxV, bias_HxV, self.eps)


def l2_normalize(x, eps: float = 1e-6):
    """x / sqrt(sum(x^2) + eps) over the last axis, in float32 or wider."""
    x = x.astype(accumulator(x.dtype))
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + eps)


def short_conv(
    module: nn.Module,
    name: str,
    x_BxTxD,
    taps: int,
    buffer_BxWxD,
    seq: Sequence,
    bias: Callable | None = None,
    init: Callable | None = None,
):
    """Causal depthwise convolution over `taps` tokens; its parameters are `module`'s.

    They are NAME_kernel [taps, D], whose last row weighs the current token, drawn by
    `init` (by default as torch does), and NAME_bias [D] if `bias` is its initialiser.

    Returns:
      (y_BxTxD, buffer_BxWxD): the buffer is the taps - 1 inputs before the next token.
    """
    init = init or inits.uniform(taps**-0.5)
    shape = (taps, x_BxTxD.shape[-1])
    kernel_WxD = parameter(module, f"{name}_kernel", init, shape, seq)
    y_BxTxD, buffer_BxWxD = conv.short(
        x_BxTxD, kernel_WxD.astype(x_BxTxD.dtype), buffer_BxWxD, seq
    )
    if bias is not None:
        bias_D = parameter(module, f"{name}_bias", bias, shape[1:], seq)
        y_BxTxD += spread(bias_D.astype(y_BxTxD.dtype), y_BxTxD)
    return y_BxTxD, buffer_BxWxD


class Identity(nn.Module):
    """x: a norm that is none."""

    eps: float = 0.0

    def __call__(self, x_BxTxD, seq: Sequence):
        return x_BxTxD


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm, "none": Identity}


gelu = functools.partial(jax.nn.gelu, approximate=True)
# What an MLP does between its products, by its kind: of (gate and) h.
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "swiglu": functools.partial(deferred.remade, lambda gate, h: jax.nn.silu(gate) * h),
    "geglu": functools.partial(deferred.remade, lambda gate, h: gelu(gate) * h),
}


class MLP(nn.Module):
    """SwiGLU or GeGLU (Shazeer 2020, arXiv 2002.05202), or the GELU MLP of GPT-2.

    GELU by its tanh form as in GPT-2, "gelu_exact" by the error function as in BERT.

    Every kernel's scale follows from D alone, so a narrower MLP is bitwise a prefix of
    a wider one; `wo` is scaled as for the customary F = 4 D. The activation is computed
    again in the backward pass: it costs less than its stores and loads. XLA:CPU keeps
    that of an ungated MLP all the same where layers are written out, which is faster.
    """

    kind: str
    width: int
    bias: bool = False

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        D = x_BxTxD.shape[-1]
        inputs = [Dense(self.width, self.bias, name="wi")(x_BxTxD, seq)]
        if not self.kind.startswith("gelu"):
            inputs.insert(0, Dense(self.width, self.bias, name="wg")(x_BxTxD, seq))
        wo_init = inits.truncated_normal((4 * D) ** -0.5, axis=0)
        output = Dense(D, self.bias, wo_init, name="wo")

        def down(output, inputs):
            return output(ACTIVATIONS[self.kind](*inputs), seq)

        return nn.remat(down, prevent_cse=False)(output, inputs)


MLPS = ("swiglu", "gelu", "none", "geglu", "gelu_exact")
