"""Attention of a call's tokens over a cache and themselves, and the cache after it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from lm.ops import attention, kv_cache
from lm.ops.blockwise import product
from lm.ops.kv_cache import Tokens
from lm.sequence import Sequence


def attend(
    q_BxTxHxK,
    k_BxTxGxK,
    v_BxTxGxV,
    cache,
    seq: Sequence,
    *,
    score: Callable = attention.dot,
    weights: Any = None,
    window: int | None = None,
    sinks_H=None,
    block: int | None = None,
    drop: Callable | None = None,
    causal: bool = True,
):
    """(y_BxTxHxV, cache): see `attention.attend` for what is given by name."""
    slots = cache["document"].shape[1]
    if q_BxTxHxK.shape[1] == 1 and slots and drop is None:
        return _one(
            q_BxTxHxK, k_BxTxGxK, v_BxTxGxV, cache, seq, score, weights, window, sinks_H
        )
    join = lambda old_BxGxCxK, new_BxTxGxK: jnp.concatenate(
        [jnp.swapaxes(old_BxGxCxK, 1, 2), new_BxTxGxK], 1
    )
    y_BxTxHxV = attention.attend(
        q_BxTxHxK,
        join(cache["key"], k_BxTxGxK),
        join(cache["value"], v_BxTxGxV),
        *kv_cache.places(cache, seq),
        score=score,
        weights=weights,
        window=window,
        sinks_H=sinks_H,
        block=block,
        drop=drop,
        causal=causal,
    )
    return y_BxTxHxV, kv_cache.write(cache, k_BxTxGxK, v_BxTxGxV, seq)


def _one(q_Bx1xHxK, k_Bx1xGxK, v_Bx1xGxV, cache, seq, score, weights, window, sinks_H):
    """`attend` of one token a row, whose own key is never joined to the cache's.

    A copy of the cache would take as long as all of the attention.
    """
    B, _, H, K = q_Bx1xHxK.shape
    G, V = v_Bx1xGxV.shape[2:]
    q_BxGxRx1xK = jnp.moveaxis(q_Bx1xHxK.reshape(B, 1, G, H // G, K), 1, 3)
    k_BxGx1xK, v_BxGx1x1xV = (
        k_Bx1xGxK.swapaxes(1, 2),
        v_Bx1xGxV.swapaxes(1, 2)[:, :, None],
    )
    query = kv_cache.place(cache, seq)
    slots = Tokens(cache["document"], cache["index"])
    logits_BxGxRx1xC = score(
        weights,
        q_BxGxRx1xK,
        cache["key"],
        kv_cache.distance(query, slots),
    )
    own_BxGxRx1x1 = score(
        weights, q_BxGxRx1xK, k_BxGx1xK, kv_cache.distance(query, query)
    )
    mask_Bx1x1x1xC = kv_cache.visible(query, slots, window)[:, None, None]
    wide = logits_BxGxRx1xC.dtype
    lowest = jnp.finfo(wide).min
    logits_BxGxRx1xC = jnp.where(mask_Bx1x1x1xC, logits_BxGxRx1xC, lowest)
    most = jnp.maximum(logits_BxGxRx1xC.max(-1, keepdims=True), own_BxGxRx1x1)
    if sinks_H is not None:
        sinks = sinks_H.astype(wide).reshape(G, H // G, 1, 1)
        most = jnp.maximum(most, sinks)
    terms_BxGxRx1xC = jnp.exp(logits_BxGxRx1xC - most)
    own_BxGxRx1x1 = jnp.exp(own_BxGxRx1x1 - most)
    total = terms_BxGxRx1xC.sum(-1, keepdims=True) + own_BxGxRx1x1
    if sinks_H is not None:
        total += jnp.exp(sinks - most)
    y_BxGxRx1xV = product(
        "bgrts,bgsv->bgrtv",
        (terms_BxGxRx1xC / total).astype(v_Bx1xGxV.dtype),
        cache["value"],
    )
    y_BxGxRx1xV += own_BxGxRx1x1 / total * v_BxGx1x1xV
    y_Bx1xHxV = y_BxGxRx1xV.reshape(B, 1, H, V).astype(v_Bx1xGxV.dtype)
    y_Bx1xHxV = jnp.where((query.document >= 0)[..., None, None], y_Bx1xHxV, 0)
    return y_Bx1xHxV, kv_cache.write(cache, k_Bx1xGxK, v_Bx1xGxV, seq, y_Bx1xHxV)
