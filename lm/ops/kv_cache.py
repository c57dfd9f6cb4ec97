"""The cache of attention: where tokens stand, what sees what, and the ring of slots."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from lm.sequence import Sequence


class Tokens(NamedTuple):
    """Where tokens stand: running document (-1: none, padding) and running index."""

    document: Any
    index: Any


def empty_cache(
    batch: int, slots: int, kv_heads: int, key: int, dtype, value: int | None = None
):
    """A cache of `slots` past tokens: keys [B, G, C, K], values [B, G, C, V], document
    and running index [B, C].

    key, value: features of a head of keys, and of values (by default as many).
    """
    # Head-major, as products with queries read it: nothing is transposed at a token.
    buffer = lambda width: jnp.zeros((batch, kv_heads, slots, width), dtype)
    return {
        "key": buffer(key),
        "value": buffer(key if value is None else value),
        "document": jnp.full((batch, slots), -1, jnp.int32),
        "index": jnp.zeros((batch, slots), jnp.int32),
        "documents": jnp.zeros(batch, jnp.int32),  # opened so far
        "count": jnp.zeros(batch, jnp.int32),  # valid tokens so far
    }


def place(cache, seq: Sequence) -> Tokens:
    """This call's tokens, [B, T]."""
    opened_BxT = jnp.cumsum(seq.reset, 1, dtype=jnp.int32)
    seen_BxT = jnp.cumsum(seq.valid, 1, dtype=jnp.int32)
    document_BxT = cache["documents"][:, None] + opened_BxT
    index_BxT = cache["count"][:, None] + seen_BxT - 1
    return Tokens(jnp.where(seq.valid, document_BxT, -1), index_BxT)


def places(cache, seq: Sequence) -> tuple[Tokens, Tokens]:
    """(queries [B, T], keys [B, S]): the keys are the cache's slots, then the queries.

    Attention relies on that order, and on valid tokens being contiguous in a row.
    """
    query = place(cache, seq)
    join = lambda slots, tokens: jnp.concatenate([slots, tokens], 1)
    key = Tokens(
        join(cache["document"], query.document), join(cache["index"], query.index)
    )
    return query, key


def distance(query: Tokens, key: Tokens):
    """Tokens between query and key, [B, T, S]: 0 is itself; negative is ahead."""
    return query.index[:, :, None] - key.index[:, None]


def visible(query: Tokens, key: Tokens, window: int | None = None, causal=True):
    """mask_BxTxS: of one document, and if causal at most window - 1 tokens back."""
    mask_BxTxS = query.document[:, :, None] == key.document[:, None]
    mask_BxTxS &= (query.document >= 0)[:, :, None]
    if not causal:
        return mask_BxTxS
    distance_BxTxS = distance(query, key)
    mask_BxTxS &= distance_BxTxS >= 0
    return mask_BxTxS if window is None else mask_BxTxS & (distance_BxTxS < window)


def slots_of(index_BxT, valid_BxT, slots: int):
    """The ring slot of each token; `slots` (out of range) for those not to be kept.

    Only the last `slots` valid tokens of a row are kept, so no slot is written twice:
    the order of duplicate writes is undefined on accelerators.
    """
    kept_BxT = valid_BxT & (index_BxT > index_BxT[:, -1:] - slots)
    return jnp.where(kept_BxT, index_BxT % slots, slots)


def write(cache, k_BxTxGxK, v_BxTxGxV, seq: Sequence, read=None):
    """The cache after this call's tokens.

    read: what was made of the cache's slots, [B, ...]. XLA overwrites a donated cache
    in place only where the write depends on all that is read from it, else it copies
    it. A row of `read` with NaN writes nothing.
    """
    counters = {
        "documents": cache["documents"] + jnp.sum(seq.reset, 1, dtype=jnp.int32),
        "count": cache["count"] + jnp.sum(seq.valid, 1, dtype=jnp.int32),
    }
    slots = cache["document"].shape[1]
    if slots == 0:
        return cache | counters
    document_BxT, index_BxT = place(cache, seq)
    slot_BxT = slots_of(index_BxT, seq.valid, slots)
    if read is not None:
        lost_B = jnp.isnan(read).any(tuple(range(1, read.ndim)))
        slot_BxT = jnp.where(lost_B[:, None], slots, slot_BxT)
    row_Bx1 = jnp.arange(slot_BxT.shape[0])[:, None]
    put = lambda buffer, where, new: buffer.at[where].set(new, mode="drop")
    heads, places = (row_Bx1, slice(None), slot_BxT), (row_Bx1, slot_BxT)
    return counters | {
        "key": put(cache["key"], heads, k_BxTxGxK),
        "value": put(cache["value"], heads, v_BxTxGxV),
        "document": put(cache["document"], places, document_BxT),
        "index": put(cache["index"], places, index_BxT),
    }
