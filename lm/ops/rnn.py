"""Nonlinear recurrences s_t = cell(s_{t-1}, x_t, h_{t-1} R), cells of lm/ops/cells.py.

h is the last leaf of the state s. Tokens run in chunks whose values stay in the cache:
products of the inputs, slopes of the cell and the gradients of all matrices are work on
a whole chunk, and only h R, its transpose and what hangs on them go token by token.
What tokens leave is written to its place at once, so no array is turned as a whole.
"""

import functools

import jax
import jax.numpy as jnp

from lm.ops import products
from lm.ops.cells import Cell
from lm.sequence import Sequence

# Rows of the products of one chunk (its tokens times the batch), by backend.
ROWS = {"cpu": 1024}
# Parts of the batch that take turns within a token, by backend: XLA:CPU computes the
# cell of one beside the product of another, and each product may have a thread of its
# own, where a product for two threads waits for the second to wake. Rows that are
# sharded stay together.
PARTS = {"cpu": 2}


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


def _parts(B: int) -> list[slice]:
    """Rows of the batch that are a product of their own."""
    parts = PARTS.get(jax.default_backend(), 1) if jax.device_count() == 1 else 1
    size = -(-B // parts)
    return [slice(first, min(first + size, B)) for first in range(0, B, size)]


def _rows(tree, rows: slice):
    return jax.tree.map(lambda x: x[rows], tree)


def _whole(parts):
    """The state of a batch from those of its parts."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _at(tree, n):
    get = functools.partial(jax.lax.dynamic_index_in_dim, index=n, keepdims=False)
    return jax.tree.map(get, tree)


def _chunk_of(x_BxNxCxD, n):
    """[C, B, D] of chunk n."""
    x_BxCxD = jax.lax.dynamic_index_in_dim(x_BxNxCxD, n, 1, keepdims=False)
    return jnp.swapaxes(x_BxCxD, 0, 1)


def _put(stacks, new, *place):
    """Writes `new` into a pytree of stacks, in place; of leading axes it has none."""

    def put(stack, x):
        x = x.reshape(*[1] * (stack.ndim - x.ndim), *x.shape)
        start = (*place, *[0] * (stack.ndim - len(place)))
        return jax.lax.dynamic_update_slice(stack, x, start)

    return jax.tree.map(put, stacks, new)


def _put_h(h_BxNxCxH, h_SxH, rows: slice, n, c):
    place = (rows.start, n, c, 0)
    return jax.lax.dynamic_update_slice(h_BxNxCxH, h_SxH[:, None, None], place)


def _over_tokens(step, carry, tokens, **options):
    """What `step(carry, (c, *token))` carries after all tokens c of a chunk."""
    order = jnp.arange(len(jax.tree.leaves(tokens)[0]))
    call = lambda carry, token: (step(carry, *token), None)
    return jax.lax.scan(call, carry, (order, *tokens), **options)[0]


def _forward(cell, params, kernel, weights, x_BxNxCxD, state, start, reset, valid):
    B, N, C, _ = x_BxNxCxD.shape
    parts = _parts(B)

    def one(state, start, z_SxF, reset_S, valid_S):
        before = _choose(reset_S, start, state)
        r_SxF = products.product(_hidden(before), kernel)
        state, saved = cell.step(params, before, z_SxF, r_SxF)
        return _choose(valid_S, state, before), saved

    def chunk(carry, n):
        z_CxBxF = products.inputs(weights, _chunk_of(x_BxNxCxD, n))

        def step(carry, c, *token):
            states, h_BxNxCxH, stacks = carry
            new = []
            for rows, state in zip(parts, states, strict=True):
                state, saved = one(state, *_rows((start, *token), rows))
                *others, h_SxH = jax.tree.leaves(state)
                h_BxNxCxH = _put_h(h_BxNxCxH, h_SxH, rows, n, c)
                stacks = _put(stacks, (others, saved), n, c, rows.start)
                new.append(state)
            return new, h_BxNxCxH, stacks

        entry = _whole(carry[0])
        return _over_tokens(step, carry, (z_CxBxF, reset[n], valid[n])), entry

    stack = lambda x: jnp.zeros((N, C, *x.shape), x.dtype)
    z_BxF = jax.eval_shape(lambda x: products.inputs(weights, x), x_BxNxCxD[:, 0, 0])
    _, saved = jax.eval_shape(one, state, start, z_BxF, reset[0, 0], valid[0, 0])
    *others, h_BxH = jax.tree.leaves(state)
    h_BxNxCxH = jnp.zeros((B, N, C, *h_BxH.shape[1:]), h_BxH.dtype)
    stacks = jax.tree.map(stack, (others, saved))
    carry = ([_rows(state, rows) for rows in parts], h_BxNxCxH, stacks)
    carry, entries = jax.lax.scan(chunk, carry, jnp.arange(N))
    last, h_BxNxCxH, stacks = carry
    made = (x_BxNxCxD, reset, valid, entries, h_BxNxCxH, *stacks)
    return (h_BxNxCxH, _whole(last)), (params, kernel, weights, start, made)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(cell, params, kernel, weights, x_BxNxCxD, state, start, reset, valid):
    """h of every token of N chunks of C, and the last state; flags are [N, C, B]."""
    inputs = (params, kernel, weights, x_BxNxCxD, state, start, reset, valid)
    return _forward(cell, *inputs)[0]


def _backward(cell, residuals, cotangents):
    params, kernel, weights, start, made = residuals
    x_BxNxCxD, reset, valid, entries, h_BxNxCxH, others, saved = made
    g_BxNxCxH, d_last = cotangents
    B, N, C, _ = x_BxNxCxD.shape
    parts = _parts(B)
    to_h = products.transposed(kernel)
    to_x = weights and products.transposed(weights[0])
    nothing = _zeros(d_last)

    def one(d_state, nothing, g_SxH, pull, reset_S, valid_S):
        d_state = _add_hidden(d_state, g_SxH)
        _, d_before, _, dr_SxF = pull(_choose(valid_S, d_state, nothing))
        d_before = _add(d_before, _choose(valid_S, nothing, d_state))
        d_before = _add_hidden(d_before, to_h(dr_SxF))
        return _choose(reset_S, nothing, d_before), d_state

    def chunk(carry, n):
        d_state, sums, dx_BxNxCxD = carry
        x_CxBxD, h_CxBxH = _chunk_of(x_BxNxCxD, n), _chunk_of(h_BxNxCxH, n)
        here = (reset, valid, entries, others, saved)
        reset_CxB, valid_CxB, entry, others_C, saved_C = _at(here, n)
        states = jax.tree.unflatten(jax.tree.structure(entry), [*others_C, h_CxBxH])
        shift = lambda first, rest: jnp.concatenate([first[None], rest[:-1]])
        before = _choose(reset_CxB, start, jax.tree.map(shift, entry, states))
        slopes = functools.partial(cell.slopes, params)
        pulls = jax.vmap(slopes)(before, states, saved_C)

        def step(carry, c, *token):
            d_states, stacks = carry
            new = []
            for rows, d_state in zip(parts, d_states, strict=True):
                inputs = _rows((nothing, *token), rows)
                d_before, d_state = one(d_state, *inputs)
                stacks = _put(stacks, d_state, c, rows.start)
                new.append(d_before)
            return new, stacks

        stacks = jax.tree.map(lambda x: jnp.zeros((C, *x.shape), x.dtype), nothing)
        tokens = (_chunk_of(g_BxNxCxH, n), pulls, reset_CxB, valid_CxB)
        carry = (d_state, stacks)
        d_state, d_states = _over_tokens(step, carry, tokens, reverse=True)
        # The same again, all tokens at once: what the loop over tokens need not store.
        d_new = _choose(valid_CxB, d_states, nothing)
        own, d_before, dz_CxBxF, dr_CxBxF = jax.vmap(lambda f, d: f(d))(pulls, d_new)
        d_before = _add(d_before, _choose(valid_CxB, nothing, d_states))
        at_reset = lambda x: _sum(_choose(reset_CxB, x, _zeros(x)))
        d_start = _add_hidden(at_reset(d_before), to_h(at_reset(dr_CxBxF)))
        d_kernel = products.adjoint(_hidden(before), dr_CxBxF, kernel)
        dz_CxBxF = dz_CxBxF.astype(x_CxBxD.dtype)
        d_weights, dx_CxBxD = products.inputs_adjoint(weights, to_x, x_CxBxD, dz_CxBxF)
        dx_BxCxD = jnp.swapaxes(dx_CxBxD, 0, 1)
        dx_BxNxCxD = jax.lax.dynamic_update_index_in_dim(dx_BxNxCxD, dx_BxCxD, n, 1)
        new = (_sum(own), d_kernel, d_weights, d_start)
        return (d_state, _add(sums, new), dx_BxNxCxD), None

    summed = (params, kernel, weights, start)
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    d_last = [_rows(d_last, rows) for rows in parts]
    carry = (d_last, jax.tree.map(wide, summed), jnp.zeros_like(x_BxNxCxD))
    carry, _ = jax.lax.scan(chunk, carry, jnp.arange(N), reverse=True)
    d_state, sums, dx_BxNxCxD = carry
    narrow = lambda total, x: total.astype(x.dtype)
    *d_matrices, d_start = jax.tree.map(narrow, sums, summed)
    return *d_matrices, dx_BxNxCxD, _whole(d_state), d_start, None, None


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
    N = min(T, -(-B * T // rows))
    C = -(-T // N)

    def chunked(x):
        x = jnp.pad(x, [(0, 0), (0, N * C - T)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(B, N, C, *x.shape[2:])

    flags = (jnp.asarray(flag) for flag in (seq.reset, seq.valid))
    flags = (jnp.moveaxis(chunked(flag), 0, 2) for flag in flags)
    inputs = (params, kernel, weights, chunked(x_BxTxD), state, start)
    h_BxNxCxH, last = _scan(cell, *inputs, *flags)
    h_BxTxH = h_BxNxCxH.reshape(B, N * C, *h_BxNxCxH.shape[3:])[:, :T]
    return h_BxTxH, last
