"""Softmax attention over a cache and the tokens of this call, with rotary positions."""

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def rope(x_BxTxHxK, positions_BxT, theta: float):
    """Rotary positions, halves rotated against each other (arXiv 2104.09864)."""
    half = x_BxTxHxK.shape[-1] // 2
    wide = jnp.promote_types(x_BxTxHxK.dtype, jnp.float32)
    frequency_K = theta ** (-jnp.arange(half, dtype=wide) / half)
    angle_BxTx1xK = positions_BxT.astype(wide)[..., None, None] * frequency_K
    sin, cos = jnp.sin(angle_BxTx1xK), jnp.cos(angle_BxTx1xK)
    one, two = jnp.split(x_BxTxHxK.astype(wide), 2, -1)
    rotated = jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)
    return rotated.astype(x_BxTxHxK.dtype)


def empty_cache(batch: int, slots: int, kv_heads: int, key: int, dtype):
    """A cache of `slots` past tokens: keys, values, document and running index."""
    buffer = jnp.zeros((batch, slots, kv_heads, key), dtype)
    return {
        "key": buffer,
        "value": buffer,
        "document": jnp.full((batch, slots), -1, jnp.int32),
        "index": jnp.zeros((batch, slots), jnp.int32),
        "documents": jnp.zeros(batch, jnp.int32),  # opened so far
        "count": jnp.zeros(batch, jnp.int32),  # valid tokens so far
    }


def place(cache, seq: Sequence):
    """Running document [B, T] (-1: padding) and index [B, T] of this call's tokens."""
    opened_BxT = jnp.cumsum(seq.reset, 1, dtype=jnp.int32)
    seen_BxT = jnp.cumsum(seq.valid, 1, dtype=jnp.int32)
    document_BxT = cache["documents"][:, None] + opened_BxT
    index_BxT = cache["count"][:, None] + seen_BxT - 1
    return jnp.where(seq.valid, document_BxT, -1), index_BxT


def visible(cache, seq: Sequence, window: int | None):
    """mask_BxTxS over cache slots, then this call's tokens: causal, of one document."""
    document_BxT, index_BxT = place(cache, seq)
    document_BxS = jnp.concatenate([cache["document"], document_BxT], 1)
    index_BxS = jnp.concatenate([cache["index"], index_BxT], 1)
    distance_BxTxS = index_BxT[:, :, None] - index_BxS[:, None]
    mask_BxTxS = (document_BxT[:, :, None] == document_BxS[:, None]) & (
        distance_BxTxS >= 0
    )
    if window is not None:
        mask_BxTxS &= distance_BxTxS < window
    return mask_BxTxS & seq.valid[:, :, None]


def slots_of(index_BxT, valid_BxT, slots: int):
    """The ring slot of each token; `slots` (out of range) for those not to be kept.

    Only the last `slots` valid tokens of a row are kept, so no slot is written twice:
    the order of duplicate writes is undefined on accelerators.
    """
    kept_BxT = valid_BxT & (index_BxT > index_BxT[:, -1:] - slots)
    return jnp.where(kept_BxT, index_BxT % slots, slots)


def write(cache, k_BxTxGxK, v_BxTxGxK, seq: Sequence):
    """The cache after this call's tokens."""
    counters = {
        "documents": cache["documents"] + jnp.sum(seq.reset, 1, dtype=jnp.int32),
        "count": cache["count"] + jnp.sum(seq.valid, 1, dtype=jnp.int32),
    }
    slots = cache["key"].shape[1]
    if slots == 0:
        return cache | counters
    document_BxT, index_BxT = place(cache, seq)
    slot_BxT = slots_of(index_BxT, seq.valid, slots)
    row_Bx1 = jnp.arange(slot_BxT.shape[0])[:, None]
    put = lambda buffer, value: buffer.at[row_Bx1, slot_BxT].set(value, mode="drop")
    return counters | {
        "key": put(cache["key"], k_BxTxGxK),
        "value": put(cache["value"], v_BxTxGxK),
        "document": put(cache["document"], document_BxT),
        "index": put(cache["index"], index_BxT),
    }


def attend(q_BxTxHxK, k_BxSxGxK, v_BxSxGxK, mask_BxTxS, drop=lambda weights: weights):
    """softmax(q k^T / sqrt(K) + mask) v with H / G queries to a key-value head.

    arXiv 1706.03762 eq. 1; grouped as in arXiv 2305.13245. The softmax is in float32 or
    wider; `drop` acts on its weights [B, G, H / G * T, S].
    """
    B, T, H, K = q_BxTxHxK.shape
    G = k_BxSxGxK.shape[2]
    q_BxGxMxK = jnp.moveaxis(q_BxTxHxK.reshape(B, T, G, H // G, K), 1, 3)
    q_BxGxMxK = q_BxGxMxK.reshape(B, G, -1, K) * K**-0.5
    wide = jnp.promote_types(q_BxTxHxK.dtype, jnp.float32)
    logits_BxGxMxS = jnp.einsum(
        "bgmk,bsgk->bgms", q_BxGxMxK, k_BxSxGxK, preferred_element_type=wide
    )
    mask_BxGxMxS = jnp.tile(mask_BxTxS, (1, H // G, 1))[:, None]
    logits_BxGxMxS = jnp.where(mask_BxGxMxS, logits_BxGxMxS, jnp.finfo(wide).min)
    weights_BxGxMxS = drop(jax.nn.softmax(logits_BxGxMxS, -1)).astype(v_BxSxGxK.dtype)
    y_BxGxMxK = jnp.einsum("bgms,bsgk->bgmk", weights_BxGxMxS, v_BxSxGxK)
    y_BxTxGxRxK = jnp.moveaxis(y_BxGxMxK.reshape(B, G, H // G, T, K), 3, 1)
    return y_BxTxGxRxK.reshape(B, T, H, K)


def pairs(length: int, window: int | None) -> int:
    """Query-key pairs that causality allows in a row of `length` tokens."""
    width = min(length, window or length)
    return width * (width + 1) // 2 + (length - width) * width
