"""Time cut into chunks: which pairs of tokens see each other, and sums of log-decays.

Within a chunk a linear recurrence is a masked matrix product; between chunks it is a
recurrence of its state. Documents are masks, never decays of minus infinity, and a sum
of log-decays never crosses the start of a document that uses it, so that one document
is bitwise free of another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


class Masks(NamedTuple):
    """What reaches what within each chunk, [B, N, 1, ...] for any head."""

    pairs: jax.Array  # [B, N, 1, C, C]: j <= i, of one document
    alive: jax.Array  # [B, N, 1, C]: the state before the chunk reaches i
    kept: jax.Array  # [B, N, 1, C]: i reaches the state after the chunk


def size(length: int, chunk: int | None, width: int = 32) -> int:
    """Tokens of a chunk, a power of two: `chunk` or the backend's, less for short rows.

    On a CPU a chunk is best as long as the keys are wide, from 32 to 64, elsewhere 64
    until it is measured. Long chunks lose digits of the delta rule on repeated keys:
    1e-5 of the largest value at 16, 1e-4 at 128.
    """
    if chunk is None:
        chunk = 64 if jax.default_backend() != "cpu" or width >= 64 else 32
    return min(chunk, 1 << (length - 1).bit_length())


def split(x_BxTxHx, chunk: int):
    """[B, T, H, ...] -> [B, N, H, C, ...], padded with zeros to whole chunks."""
    B, T, H, *rest = x_BxTxHx.shape
    count = -(-T // chunk)
    pad = [(0, 0), (0, count * chunk - T), *[(0, 0)] * (x_BxTxHx.ndim - 2)]
    chunks = jnp.pad(x_BxTxHx, pad).reshape(B, count, chunk, H, *rest)
    return jnp.swapaxes(chunks, 2, 3)


def join(x_BxNxHxCx, length: int):
    """[B, N, H, C, ...] -> [B, T, H, ...]."""
    B, N, H, C, *rest = x_BxNxHxCx.shape
    return jnp.swapaxes(x_BxNxHxCx, 2, 3).reshape(B, N * C, H, *rest)[:, :length]


def masks(seq: Sequence, chunk: int) -> Masks:
    """Masks of rows in chunks; padding belongs to the document before it."""
    reset_BxNx1xC = split(jnp.asarray(seq.reset)[..., None], chunk)
    document = jnp.cumsum(reset_BxNx1xC, -1, dtype=jnp.int32)
    same = document[..., :, None] == document[..., None, :]
    causal_CxC = jnp.tril(jnp.ones((chunk, chunk), bool))
    return Masks(same & causal_CxC, document == 0, document == document[..., -1:])


def masked(seq: Sequence, *arrays):
    """Zeros in place of what padding says, in float32 or wider: [B, T, ...] each."""

    def one(x):
        valid = jnp.asarray(seq.valid).reshape(*seq.valid.shape, *[1] * (x.ndim - 2))
        return jnp.where(valid, x, 0).astype(jnp.promote_types(x.dtype, jnp.float32))

    return [one(x) for x in arrays]


def between(g_BxNxHxC):
    """sum of g over j < l <= i, [.., C, C]: a product, since differences of cumulative
    sums cancel; above the diagonal it is no sum and has to be masked."""
    C = g_BxNxHxC.shape[-1]
    lower_CxC = jnp.tril(jnp.ones((C, C), g_BxNxHxC.dtype))
    after_CxC = jnp.tril(lower_CxC, -1)
    return (lower_CxC * g_BxNxHxC[..., None, :]) @ after_CxC


class Decays(NamedTuple):
    """exp of sums of log-decays; 0 where the mask says so. None: no decay at all."""

    pairs: jax.Array  # [B, N, H, C, C]: of l in (j, i]
    alive: jax.Array  # [B, N, H, C]: from the start of the chunk up to i
    kept: jax.Array  # [B, N, H, C]: from after i to the end of the chunk
    whole: jax.Array  # [B, N, H]: of the chunk, 0 where a document ends in it


def decays(g_BxNxHxC, mask: Masks) -> Decays:
    """Of log-decays of one number a token and head."""
    exp = lambda keep, x: jnp.exp(jnp.where(keep, x, -jnp.inf))
    between_BxNxHxCxC = between(g_BxNxHxC)
    from_start_BxNxHxC = jnp.cumsum(g_BxNxHxC, -1)
    alive_BxNxHxC = exp(mask.alive, from_start_BxNxHxC)
    return Decays(
        exp(mask.pairs, between_BxNxHxCxC),
        alive_BxNxHxC,
        exp(mask.kept, between_BxNxHxCxC[..., -1, :]),
        alive_BxNxHxC[..., -1],
    )


def states(whole_BxNxHx, update_BxNxHxKxV, state_BxHxKxV):
    """S_n = whole_n S_{n-1} + update_n: (state before each chunk, the last one)."""
    major = lambda x: jnp.moveaxis(x, 1, 0)

    def step(state_BxHxKxV, chunk):
        whole, update = chunk
        return whole * state_BxHxKxV + update, state_BxHxKxV

    inputs = (major(whole_BxNxHx), major(update_BxNxHxKxV))
    state_BxHxKxV, before = jax.lax.scan(step, state_BxHxKxV, inputs)
    return jnp.moveaxis(before, 0, 1), state_BxHxKxV
