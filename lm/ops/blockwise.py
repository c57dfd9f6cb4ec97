"""Attention in blocks of queries and keys, whose memory is linear in T.

A running maximum and sum (Rabe and Staats 2021, arXiv 2112.05682); only blocks that
hold a visible pair are visited, and the backward pass computes their softmax again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lm.ops.kv_cache import Tokens, distance, visible


def schedule(T: int, S: int, block: int, window: int | None):
    """[pairs, 2] of (query block, key block) that hold a visible pair, by positions.

    The last T of the S keys are the queries; any query may see any slot before them.
    """
    slots = S - T
    visits = []
    for first in range(0, T, block):
        for start in range(0, S, block):
            last, end = first + block - 1 + slots, min(start + block, S) - 1
            behind = window is not None and first + slots - end >= window
            if start <= last and not (behind and start >= slots):
                visits.append((first // block, start // block))
    return np.array(visits, np.int32)


def _blocks(x, axis: int, block: int, fill=0):
    """Blocks of `block` along `axis`, as a new first axis; the last is filled up."""
    count = -(-x.shape[axis] // block)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, count * block - x.shape[axis])
    x = jnp.pad(x, widths, constant_values=fill)
    shape = (*x.shape[:axis], count, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _joined(x, axis: int, length: int):
    """The inverse of `_blocks`."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, length, axis=axis)


def _split(block: int, q, k_BxSxGxK, v_BxSxGxV, query, key):
    """The inputs in blocks: queries (q, places), keys (k, v, places)."""
    place = lambda x: Tokens(
        _blocks(x.document, 1, block, -1), _blocks(x.index, 1, block)
    )
    rows = _blocks(q, 3, block), place(query)
    columns = _blocks(k_BxSxGxK, 1, block), _blocks(v_BxSxGxV, 1, block), place(key)
    return rows, columns


def _at(tree, i):
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree
    )


def _set(tree, i, values):
    return jax.tree.map(
        lambda x, value: jax.lax.dynamic_update_index_in_dim(x, value, i, 0),
        tree,
        values,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def blockwise(score, window, block, *inputs):
    """`attention.dense` in blocks of `block` tokens: y_BxGxRxTxV."""
    return _forward(score, window, block, *inputs)[0]


def _forward(score, window, block, q, k_BxSxGxK, v_BxSxGxV, weights, sinks, query, key):
    rows, columns = _split(block, q, k_BxSxGxK, v_BxSxGxV, query, key)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    lowest = jnp.finfo(wide).min
    shape = rows[0].shape[:-1]
    # A sink is a key of value 0 that each query has seen before all others.
    if sinks is None:
        most, total = jnp.full(shape, lowest, wide), jnp.zeros(shape, wide)
    else:
        most = jnp.broadcast_to(sinks[..., None].astype(wide), shape)
        total = jnp.ones(shape, wide)
    y = jnp.zeros((*shape, v_BxSxGxV.shape[-1]), wide)

    # In a block T and S are its own: q is [B, G, R, T, K], k [B, S, G, K].
    def visit(state, pair):
        (q, query), (k, v, key) = _at(rows, pair[0]), _at(columns, pair[1])
        most, total, y = _at(state, pair[0])
        mask = visible(query, key, window)[:, None, None]
        logits = score(weights, q, k, distance(query, key))
        logits = jnp.where(mask, logits, lowest)
        higher = jnp.maximum(most, logits.max(-1))
        terms = jnp.exp(logits - higher[..., None])
        # 0 at the first key that is seen: what blocks before it summed is forgotten.
        fade = jnp.exp(most - higher)
        total = total * fade + terms.sum(-1)
        y = y * fade[..., None] + jnp.einsum(
            "bgrts,bsgv->bgrtv", terms.astype(v.dtype), v, preferred_element_type=wide
        )
        return _set(state, pair[0], (higher, total, y)), None

    visits = schedule(q.shape[3], k_BxSxGxK.shape[1], block, window)
    (most, total, y), _ = jax.lax.scan(visit, (most, total, y), visits)
    y = _joined(y / total[..., None], 3, q.shape[3]).astype(v_BxSxGxV.dtype)
    inputs = (q, k_BxSxGxK, v_BxSxGxV, weights, sinks, query, key)
    return y, (inputs, y, most, total)


def _backward(score, window, block, saved, dy):
    (q, k_BxSxGxK, v_BxSxGxV, weights, sinks, query, key), y, most, total = saved
    rows, columns = _split(block, q, k_BxSxGxK, v_BxSxGxV, query, key)
    wide = most.dtype
    mean = _blocks(jnp.sum(dy.astype(wide) * y.astype(wide), -1), 3, block)
    rows = (*rows, _blocks(dy, 3, block), mean, most, total)
    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, wide), tree)
    add = lambda old, new: jax.tree.map(lambda x, d: x + d.astype(wide), old, new)

    def visit(grads, pair):
        dweights, dq_all, dkv_all = grads
        q, query, dy, mean, most, total = _at(rows, pair[0])
        k, v, key = _at(columns, pair[1])
        mask = visible(query, key, window)[:, None, None]
        measure = lambda weights, q, k: score(weights, q, k, distance(query, key))
        logits, pull = jax.vjp(measure, weights, q, k)
        logits = jnp.where(mask, logits, jnp.finfo(wide).min)
        softmax = jnp.exp(logits - most[..., None]) / total[..., None]
        dv = jnp.einsum(
            "bgrts,bgrtv->bsgv",
            softmax.astype(dy.dtype),
            dy,
            preferred_element_type=wide,
        )
        slope = jnp.einsum("bgrtv,bsgv->bgrts", dy, v, preferred_element_type=wide)
        dw, dq, dk = pull(softmax * (slope - mean[..., None]))
        dq_all = _set(dq_all, pair[0], add(_at(dq_all, pair[0]), dq))
        dkv_all = _set(dkv_all, pair[1], add(_at(dkv_all, pair[1]), (dk, dv)))
        return (add(dweights, dw), dq_all, dkv_all), None

    grads = zeros(weights), zeros(rows[0]), zeros(columns[:2])
    visits = schedule(q.shape[3], k_BxSxGxK.shape[1], block, window)
    (dweights, dq, (dk, dv)), _ = jax.lax.scan(visit, grads, visits)
    dsinks = None
    if sinks is not None:
        share = jnp.exp(sinks[..., None].astype(wide) - most) / total
        dsinks = -jnp.sum(share * mean, (0, 1, 4)).astype(sinks.dtype)
    cast = lambda grad, x: grad.astype(x.dtype)
    dweights = jax.tree.map(cast, dweights, weights)
    dq = cast(_joined(dq, 3, q.shape[3]), q)
    dk, dv = (
        cast(_joined(grad, 1, x.shape[1]), x)
        for grad, x in ((dk, k_BxSxGxK), (dv, v_BxSxGxV))
    )
    return dq, dk, dv, dweights, dsinks, None, None


blockwise.defvjp(_forward, _backward)
