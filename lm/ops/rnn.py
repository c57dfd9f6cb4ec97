"""Nonlinear recurrences s_t = cell(s_{t-1}, x_t, h_{t-1} R), cells of lm/ops/cells.py.

h is the last leaf of the state s. Tokens run in chunks whose values stay in the cache:
products of the inputs, slopes of the cell and the gradients of all matrices are work on
a whole chunk, and only h R, its transpose and what hangs on them go token by token.
"""

import functools

import jax
import jax.numpy as jnp

from lm.ops.cells import Cell
from lm.sequence import Sequence

# Rows of the products of one chunk (its tokens times the batch), by backend.
ROWS = {"cpu": 1024}


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


def _product_adjoint(h_CxBxH, dr_CxBxF, kernel):
    """The gradient of a kernel of `product`, from all tokens of a chunk."""
    if kernel.ndim == 2:
        rows = lambda x: x.reshape(-1, x.shape[-1]).astype(kernel.dtype)
        return rows(h_CxBxH).T @ rows(dr_CxBxF)
    return jax.linear_transpose(lambda R: product(h_CxBxH, R), kernel)(dr_CxBxF)[0]


def _transposed(kernel, h_BxH):
    """The transpose of `product` with respect to h, for a loop."""
    if kernel.ndim == 2:
        # The barrier makes it a matrix of its own: a product that reads R by columns
        # takes up to twice as long.
        kernel_FxH = jax.lax.optimization_barrier(kernel.T)
        return lambda r_BxF: product(r_BxF, kernel_FxH)
    pull = jax.linear_transpose(lambda h_BxH: product(h_BxH, kernel), h_BxH)
    return lambda r_BxF: pull(r_BxF)[0]


def _inputs(weights, x):
    """x W + b; x itself where there are no weights."""
    if weights is None:
        return x
    kernel_DxF, bias_F = weights
    return x @ kernel_DxF + bias_F


def _inputs_adjoint(weights, to_x, x, dz):
    """(gradient of the weights, of x) from all tokens of a chunk."""
    if weights is None:
        return None, dz
    kernel_DxF, bias_F = weights
    return (_product_adjoint(x, dz, kernel_DxF), dz.sum((0, 1))), to_x(dz)


def _choose(condition, new, old):
    """Per leaf: `new` where the condition on its leading axes holds."""

    def pick(n, o):
        axes = [1] * (max(n.ndim, o.ndim) - condition.ndim)
        return jnp.where(condition.reshape(*condition.shape, *axes), n, o)

    return jax.tree.map(pick, new, old)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _add(one, two):
    return jax.tree.map(jnp.add, one, two)


def _sum(tree):
    return jax.tree.map(lambda x: x.sum(0), tree)


def _hidden(state):
    return jax.tree.leaves(state)[-1]


def _add_hidden(state, h_BxH):
    *others, hidden_BxH = jax.tree.leaves(state)
    return jax.tree.unflatten(jax.tree.structure(state), [*others, hidden_BxH + h_BxH])


def _forward(cell, params, kernel, weights, x_NxCxBxD, state, start, reset, valid):
    def step(state, token):
        z_BxF, reset_B, valid_B = token
        before = _choose(reset_B, start, state)
        r_BxF = product(_hidden(before), kernel)
        state, saved = cell.step(params, before, z_BxF, r_BxF)
        state = _choose(valid_B, state, before)
        return state, (state, saved)

    def chunk(state, tokens):
        x_CxBxD, reset_CxB, valid_CxB = tokens
        z_CxBxF = _inputs(weights, x_CxBxD)
        last, made = jax.lax.scan(step, state, (z_CxBxF, reset_CxB, valid_CxB))
        return last, (state, *made)

    tokens = (x_NxCxBxD, reset, valid)
    last, (entries, states, saved) = jax.lax.scan(chunk, state, tokens)
    residuals = (tokens, entries, states, saved)
    return (_hidden(states), last), (params, kernel, weights, start, residuals)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(cell, params, kernel, weights, x_NxCxBxD, state, start, reset, valid):
    """h of every token of N chunks of C, and the last state; flags are [N, C, B]."""
    inputs = (params, kernel, weights, x_NxCxBxD, state, start, reset, valid)
    return _forward(cell, *inputs)[0]


def _backward(cell, residuals, cotangents):
    params, kernel, weights, start, made = residuals
    g_NxCxBxH, d_last = cotangents
    to_h = _transposed(kernel, _hidden(d_last))
    to_x = weights and _transposed(weights[0], None)
    nothing = _zeros(d_last)

    def step(d_state, token):
        g_BxH, pull, reset_B, valid_B = token
        d_state = _add_hidden(d_state, g_BxH)
        _, d_before, _, dr_BxF = pull(_choose(valid_B, d_state, nothing))
        d_before = _add(d_before, _choose(valid_B, nothing, d_state))
        d_before = _add_hidden(d_before, to_h(dr_BxF))
        return _choose(reset_B, nothing, d_before), d_state

    def chunk(carry, tokens):
        d_state, sums = carry
        g_CxBxH, ((x_CxBxD, reset_CxB, valid_CxB), entry, states, saved) = tokens
        shift = lambda first, rest: jnp.concatenate([first[None], rest[:-1]])
        before = _choose(reset_CxB, start, jax.tree.map(shift, entry, states))
        slopes = functools.partial(cell.slopes, params)
        pulls = jax.vmap(slopes)(before, states, saved)
        flags = (reset_CxB, valid_CxB)
        d_state, d_states = jax.lax.scan(
            step, d_state, (g_CxBxH, pulls, *flags), reverse=True
        )
        # The same again, all tokens at once: what the loop over tokens need not store.
        d_new = _choose(valid_CxB, d_states, nothing)
        own, d_before, dz_CxBxF, dr_CxBxF = jax.vmap(lambda f, d: f(d))(pulls, d_new)
        d_before = _add(d_before, _choose(valid_CxB, nothing, d_states))
        at_reset = lambda x: _sum(_choose(reset_CxB, x, _zeros(x)))
        d_start = _add_hidden(at_reset(d_before), to_h(at_reset(dr_CxBxF)))
        d_kernel = _product_adjoint(_hidden(before), dr_CxBxF, kernel)
        dz_CxBxF = dz_CxBxF.astype(x_CxBxD.dtype)
        d_weights, dx_CxBxD = _inputs_adjoint(weights, to_x, x_CxBxD, dz_CxBxF)
        new = (_sum(own), d_kernel, d_weights, d_start)
        return (d_state, _add(sums, new)), dx_CxBxD

    summed = (params, kernel, weights, start)
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    carry = (d_last, jax.tree.map(wide, summed))
    (d_state, sums), dx_NxCxBxD = jax.lax.scan(
        chunk, carry, (g_NxCxBxH, made), reverse=True
    )
    narrow = lambda total, x: total.astype(x.dtype)
    *d_matrices, d_start = jax.tree.map(narrow, sums, summed)
    return *d_matrices, dx_NxCxBxD, d_state, d_start, None, None


_scan.defvjp(_forward, _backward)


def scan(
    cell: Cell,
    params,
    kernel,
    x_BxTxD,
    state,
    start,
    seq: Sequence,
    weights=None,
):
    """Runs `cell(params, state, z_BxF, r_BxF) -> state` over time, r = h R.

    Args:
      cell: a Cell; `params` are its own parameters, a pytree.
      kernel: R, dense or in blocks: see `product`.
      state: pytree of [B, ...], the state before the first token; h is its last leaf.
      start: pytree of the same form, what a reset puts in its place.
      weights: (W [D, F], b [F]) of z = x W + b; None: z is x.

    Returns:
      (h_BxTxH, state): h after every token, and the last state.
    """
    B, T, _ = x_BxTxD.shape
    rows = ROWS.get(jax.default_backend(), B * T)
    chunks = min(T, -(-B * T // rows))
    C = -(-T // chunks)

    def chunked(x):
        x = jnp.swapaxes(x, 0, 1)
        x = jnp.pad(x, [(0, chunks * C - T)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(chunks, C, *x.shape[1:])

    flags = (chunked(jnp.asarray(seq.reset)), chunked(jnp.asarray(seq.valid)))
    inputs = (params, kernel, weights, chunked(x_BxTxD), state, start)
    h_NxCxBxH, last = _scan(cell, *inputs, *flags)
    h_TxBxH = h_NxCxBxH.reshape(-1, *h_NxCxBxH.shape[2:])[:T]
    return jnp.swapaxes(h_TxBxH, 0, 1), last
