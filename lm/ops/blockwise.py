"""Attention in blocks of queries and keys, never all pairs of them at once.

A running maximum and sum (Rabe and Staats 2021, arXiv 2112.05682); keys that no query
of a block can see are not visited, and the backward pass computes the softmax again.
Inside a block T and S are its own: q is [B, G, R, T, K], k [B, G, S, K].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lm.ops.kv_cache import Tokens, distance, visible


def rows(T: int, S: int, block: int, window: int | None):
    """[((first, end) of queries, (first, end) of all keys that they may see)].

    The last T of the S keys are the queries; any query may see any slot before them.
    """
    slots = S - T
    reach = S if window is None or slots else window - 1
    spans = [(first, min(first + block, T)) for first in range(0, T, block)]
    return [
        ((first, end), (max(first - reach, 0), end + slots)) for first, end in spans
    ]


def squares(T: int, S: int, block: int, window: int | None):
    """[pairs, 2] of (query block, key block) that hold a visible pair, by positions."""
    slots = S - T
    visits = []
    for first in range(0, T, block):
        for start in range(0, S, block):
            last, end = first + block - 1 + slots, min(start + block, S) - 1
            behind = window is not None and first + slots - end >= window
            if start <= last and not (behind and start >= slots):
                visits.append((first // block, start // block))
    return np.array(visits, np.int32)


def product(equation: str, x, y):
    """einsum with its sums in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if jax.default_backend() == "cpu":
        # XLA has no such product of bfloat16 there for some orders of axes.
        x, y = x.astype(wide), y.astype(wide)
    return jnp.einsum(equation, x, y, preferred_element_type=wide)


def _bias(query: Tokens, key: Tokens, window: int | None, dtype):
    """0 where a query sees a key, else -inf: [B, 1, 1, T, S]."""
    seen_BxTxS = visible(query, key, window)
    # A select would be made anew for each head, in each fusion that reads it; XLA takes
    # a logarithm for expensive and makes it once.
    return jnp.log(seen_BxTxS.astype(dtype))[:, None, None]


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _start(shape_BxGxRxT, sinks_GxR, V: int, wide):
    """(maximum, sum, weighted values) of queries that have seen no key.

    A sink is a key of value 0 that each query has seen before all others.
    """
    y = jnp.zeros((*shape_BxGxRxT, V), wide)
    if sinks_GxR is None:
        lowest = jnp.full(shape_BxGxRxT, jnp.finfo(wide).min, wide)
        return lowest, jnp.zeros(shape_BxGxRxT, wide), y
    sinks = jnp.broadcast_to(sinks_GxR[..., None].astype(wide), shape_BxGxRxT)
    return sinks, jnp.ones(shape_BxGxRxT, wide), y


def _see(score, window, weights, q, k, v, query, key, state):
    """`state` of queries after more keys; None: before, they have seen none."""
    logits = score(weights, q, k, distance(query, key))
    wide = logits.dtype
    logits += _bias(query, key, window, wide)
    most = state[0] if state else jnp.finfo(wide).min
    higher = jnp.maximum(most, logits.max(-1))
    terms = jnp.exp(logits - higher[..., None])
    total = terms.sum(-1)
    y = product("bgrts,bgsv->bgrtv", terms.astype(v.dtype), v)
    if state:
        # 0 at the first key that is seen: what blocks before it summed is forgotten.
        fade = jnp.exp(most - higher)
        total += state[1] * fade
        y += state[2] * fade[..., None]
    return higher, total, y


def _slopes(score, window, weights, q, k, v, query, key, dy, mean, most):
    """Gradients (weights, q, k [B, G, K, S], v [B, G, V, S]) from a block of pairs.

    dy and mean, the product of y and dy, are already divided by the sum.
    """

    def measure(weights, q, k_BxGxKxS):
        k = jnp.swapaxes(k_BxGxKxS, -1, -2)
        return score(weights, q, k, distance(query, key))

    logits, pull = jax.vjp(measure, weights, q, jnp.swapaxes(k, -1, -2))
    wide = logits.dtype
    terms = jnp.exp(logits + _bias(query, key, window, wide) - most[..., None])
    dv_BxGxVxS = product("bgrtv,bgrts->bgvs", dy, terms.astype(dy.dtype))
    slope = product("bgrtv,bgsv->bgrts", dy, v)
    return *pull(terms * (slope - mean[..., None])), dv_BxGxVxS


def _part(tree, axis: int, span: tuple[int, int]):
    return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, *span, axis=axis), tree)


def _rows_forward(score, window, block, q, k, v, weights, sinks, query, key):
    states = []
    for queries, keys in rows(q.shape[3], k.shape[2], block, window):
        rows_q, rows_k, rows_v = _part(q, 3, queries), *_part((k, v), 2, keys)
        places = _part(query, 1, queries), _part(key, 1, keys)
        start = None
        if sinks is not None:
            start = _start(rows_q.shape[:-1], sinks, v.shape[-1], _wide(q))
        inputs = (weights, rows_q, rows_k, rows_v, *places)
        states.append(_see(score, window, *inputs, start))
    return tuple(jnp.concatenate(parts, 3) for parts in zip(*states, strict=True))


def _rows_backward(score, window, block, inputs, dy, mean, most):
    q, k, v, weights, _, query, key = inputs
    T, S = q.shape[3], k.shape[2]
    found = []
    for queries, keys in rows(T, S, block, window):
        rows_q, *sides = _part((q, dy, mean, most), 3, queries)
        places = _part(query, 1, queries), _part(key, 1, keys)
        pairs = (weights, rows_q, *_part((k, v), 2, keys), *places, *sides)
        dweights, dq, dk, dv = _slopes(score, window, *pairs)
        around = (keys[0], S - keys[1])
        placed = [
            jnp.pad(x.astype(most.dtype), (*3 * [(0, 0)], around)) for x in (dk, dv)
        ]
        found.append((dweights, dq, *placed))
    dweights, dq, dk, dv = zip(*found, strict=True)
    dweights = jax.tree.map(lambda *parts: sum(parts), *dweights)
    swap = lambda parts: jnp.swapaxes(sum(parts), -1, -2)
    return dweights, jnp.concatenate(dq, 3), swap(dk), swap(dv)


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


def _split(block: int, q, k, v, query, key):
    """The inputs in blocks: queries (q, places), keys (k, v, places)."""
    place = lambda x: Tokens(
        _blocks(x.document, 1, block, -1), _blocks(x.index, 1, block)
    )
    queries = _blocks(q, 3, block), place(query)
    return queries, (_blocks(k, 2, block), _blocks(v, 2, block), place(key))


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


def _squares_forward(score, window, block, q, k, v, weights, sinks, query, key):
    queries, keys = _split(block, q, k, v, query, key)

    def visit(states, pair):
        (q, query), (k, v, key) = _at(queries, pair[0]), _at(keys, pair[1])
        state = _at(states, pair[0])
        state = _see(score, window, weights, q, k, v, query, key, state)
        return _set(states, pair[0], state), None

    start = _start(queries[0].shape[:-1], sinks, v.shape[-1], _wide(q))
    visits = squares(q.shape[3], k.shape[2], block, window)
    states, _ = jax.lax.scan(visit, start, visits)
    return tuple(_joined(x, 3, q.shape[3]) for x in states)


def _squares_backward(score, window, block, inputs, dy, mean, most):
    q, k, v, weights, _, query, key = inputs
    queries, keys = _split(block, q, k, v, query, key)
    sides = tuple(_blocks(x, 3, block) for x in (dy, mean, most))
    add = lambda old, new: jax.tree.map(lambda x, d: x + d.astype(x.dtype), old, new)

    def visit(grads, pair):
        dweights, dq_all, dkv_all = grads
        (q, query), (k, v, key) = _at(queries, pair[0]), _at(keys, pair[1])
        pairs = (weights, q, k, v, query, key, *_at(sides, pair[0]))
        dw, dq, *dkv = _slopes(score, window, *pairs)
        dq_all = _set(dq_all, pair[0], add(_at(dq_all, pair[0]), dq))
        dkv_all = _set(dkv_all, pair[1], add(_at(dkv_all, pair[1]), dkv))
        return (add(dweights, dw), dq_all, dkv_all), None

    swap = lambda x: jnp.swapaxes(x, -1, -2)
    zeros = lambda x: jnp.zeros(x.shape, most.dtype)
    start = (weights, queries[0], [swap(x) for x in keys[:2]])
    visits = squares(q.shape[3], k.shape[2], block, window)
    grads, _ = jax.lax.scan(visit, jax.tree.map(zeros, start), visits)
    dweights, dq, dkv = grads
    dk, dv = (_joined(swap(x), 2, k.shape[2]) for x in dkv)
    return dweights, _joined(dq, 3, q.shape[3]), dk, dv


# rows: a block of queries with all its keys at once, unrolled, for short calls;
# squares: a scan over blocks of queries and keys, whose memory is linear in T.
ORDERS = {
    "rows": (_rows_forward, _rows_backward),
    "squares": (_squares_forward, _squares_backward),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def blockwise(order, score, window, block, *inputs):
    """`attention.dense` in blocks of `block` tokens, in one of ORDERS: y_BxGxRxTxV."""
    return _forward(order, score, window, block, *inputs)[0]


def _forward(order, score, window, block, *inputs):
    most, total, y = ORDERS[order][0](score, window, block, *inputs)
    # It is 1 or more where a key is seen: the largest term is 1.
    total = jnp.maximum(total, 1)
    y = (y / total[..., None]).astype(inputs[2].dtype)
    return y, (inputs, y, most, total)


def _backward(order, score, window, block, saved, dy):
    inputs, y, most, total = saved
    q, k, v, weights, sinks, _, _ = inputs
    # Rounded before its product with y: what the softmax's gradient takes apart agrees.
    dy = (dy.astype(most.dtype) / total[..., None]).astype(v.dtype)
    # As a product: sums over a short last axis are ten times slower on a CPU.
    mean = product("bgrtv,bgrtv->bgrt", dy.astype(most.dtype), y.astype(most.dtype))
    sides = dy, mean, most
    dweights, dq, dk, dv = ORDERS[order][1](score, window, block, inputs, *sides)
    dsinks = None
    if sinks is not None:
        shares = jnp.exp(sinks[..., None].astype(most.dtype) - most)
        dsinks = -jnp.sum(shares * mean, (0, 3))
    cast = lambda grad, x: grad.astype(x.dtype)
    grads = (dq, dk, dv, dweights, dsinks)
    return *jax.tree.map(cast, grads, (q, k, v, weights, sinks)), None, None


blockwise.defvjp(_forward, _backward)
