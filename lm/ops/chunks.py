"""Time cut into chunks: which pairs of tokens see each other, and sums of log-decays.

Within a chunk a linear recurrence is a masked matrix product; between chunks it is a
recurrence of its state. Documents are masks, never decays of minus infinity, and a sum
of log-decays never crosses the start of a document that uses it, so that one document
is bitwise free of another. Chunks come first, [N, B, H, C, ...]: what is made of all
of them at once and what runs over them share one layout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


class Masks(NamedTuple):
    """What reaches what within each chunk, [N, B, 1, ...] for any head."""

    pairs: jax.Array  # [N, B, 1, C, C]: j <= i, of one document
    alive: jax.Array  # [N, B, 1, C]: the state before the chunk reaches i
    kept: jax.Array  # [N, B, 1, C]: i reaches the state after the chunk


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
    """[B, T, H, ...] -> [N, B, H, C, ...], padded with zeros to whole chunks."""
    B, T, H, *rest = x_BxTxHx.shape
    count = -(-T // chunk)
    pad = [(0, 0), (0, count * chunk - T), *[(0, 0)] * (x_BxTxHx.ndim - 2)]
    chunks = jnp.pad(x_BxTxHx, pad).reshape(B, count, chunk, H, *rest)
    return jnp.moveaxis(chunks, (1, 3), (0, 2))


def join(x_NxBxHxCx, length: int):
    """[N, B, H, C, ...] -> [B, T, H, ...]."""
    N, B, H, C, *rest = x_NxBxHxCx.shape
    x_BxNxCxHx = jnp.moveaxis(x_NxBxHxCx, (0, 2), (1, 3))
    return x_BxNxCxHx.reshape(B, N * C, H, *rest)[:, :length]


def masks(seq: Sequence, chunk: int) -> Masks:
    """Masks of rows in chunks; padding belongs to the document before it."""
    reset_NxBx1xC = split(jnp.asarray(seq.reset)[..., None], chunk)
    document = jnp.cumsum(reset_NxBx1xC, -1, dtype=jnp.int32)
    same = document[..., :, None] == document[..., None, :]
    causal_CxC = jnp.tril(jnp.ones((chunk, chunk), bool))
    return Masks(same & causal_CxC, document == 0, document == document[..., -1:])


def masked(seq: Sequence, *arrays):
    """Zeros in place of what padding says, in float32 or wider: [B, T, ...] each."""

    def one(x):
        valid = jnp.asarray(seq.valid).reshape(*seq.valid.shape, *[1] * (x.ndim - 2))
        return jnp.where(valid, x, 0).astype(jnp.promote_types(x.dtype, jnp.float32))

    return [one(x) for x in arrays]


def between(g_NxBxHxC):
    """sum of g over j < l <= i, [.., C, C]: a product, since differences of cumulative
    sums cancel; above the diagonal it is no sum and has to be masked."""
    C = g_NxBxHxC.shape[-1]
    lower_CxC = jnp.tril(jnp.ones((C, C), g_NxBxHxC.dtype))
    after_CxC = jnp.tril(lower_CxC, -1)
    return (lower_CxC * g_NxBxHxC[..., None, :]) @ after_CxC


class Decays(NamedTuple):
    """exp of sums of log-decays; 0 where the mask says so. None: no decay at all."""

    pairs: jax.Array  # [N, B, H, C, C]: of l in (j, i]
    alive: jax.Array  # [N, B, H, C]: from the start of the chunk up to i
    kept: jax.Array  # [N, B, H, C]: from after i to the end of the chunk
    whole: jax.Array  # [N, B, H]: of the chunk, 0 where a document ends in it


def decays(g_NxBxHxC, mask: Masks) -> Decays:
    """Of log-decays of one number a token and head."""
    exp = lambda keep, x: jnp.exp(jnp.where(keep, x, -jnp.inf))
    between_NxBxHxCxC = between(g_NxBxHxC)
    from_start_NxBxHxC = jnp.cumsum(g_NxBxHxC, -1)
    alive_NxBxHxC = exp(mask.alive, from_start_NxBxHxC)
    return Decays(
        exp(mask.pairs, between_NxBxHxCxC),
        alive_NxBxHxC,
        exp(mask.kept, between_NxBxHxCxC[..., -1, :]),
        alive_NxBxHxC[..., -1],
    )


@jax.custom_vjp
def states(whole_NxBx, update_NxBx, state_Bx):
    """S_n = whole_n S_{n-1} + update_n: (state before each chunk, the last one).

    Args:
      whole_NxBx: of the rank of `update_NxBx`; axes of size 1 are broadcast.
    """

    def step(state_Bx, chunk):
        whole_Bx, update_Bx = chunk
        return whole_Bx * state_Bx + update_Bx, state_Bx

    state_Bx, before_NxBx = jax.lax.scan(step, state_Bx, (whole_NxBx, update_NxBx))
    return before_NxBx, state_Bx


def _states_forward(whole_NxBx, update_NxBx, state_Bx):
    before_NxBx, state_Bx = states(whole_NxBx, update_NxBx, state_Bx)
    return (before_NxBx, state_Bx), (whole_NxBx, before_NxBx)


def _states_backward(residuals, cotangents):
    """The loop holds the recurrence alone; the gradient of `whole` is one sum."""
    whole_NxBx, before_NxBx = residuals

    def step(d_Bx, chunk):
        whole_Bx, d_before_Bx = chunk
        return whole_Bx * d_Bx + d_before_Bx, d_Bx

    d_before_NxBx, d_Bx = cotangents
    chunks = (whole_NxBx, d_before_NxBx)
    d_Bx, d_update_NxBx = jax.lax.scan(step, d_Bx, chunks, reverse=True)
    axes = [i for i, size in enumerate(whole_NxBx.shape) if size == 1]
    d_whole_NxBx = jnp.sum(before_NxBx * d_update_NxBx, axes, keepdims=True)
    return d_whole_NxBx, d_update_NxBx, d_Bx


states.defvjp(_states_forward, _states_backward)
