"""Decay and low rank in chunks: S_t = diag(e^{w_t}) S_{t-1} + b_t (S_{t-1}^T a_t)^T +
k_t v_t^T, o_t = S_t^T r_t.

The generalised delta rule of RWKV-7 (Peng et al. 2025, arXiv 2503.14456, section 3), in
the WY form of lm/ops/delta.py; here `a` reads the state before it decays.
"""

import jax
import jax.numpy as jnp

from lm.ops import chunks, delta
from lm.sequence import Sequence

LONGEST = 64  # tokens of a chunk, see `rule`


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def rule(
    r_BxTxHxK,
    w_BxTxHxK,
    k_BxTxHxK,
    v_BxTxHxV,
    a_BxTxHxK,
    b_BxTxHxK,
    state_BxHxKxV,
    seq: Sequence,
    chunk=None,
):
    """Outputs o_BxTxHxV and the last state, both in float32 or wider.

    Pairs of tokens decay by e^{x_i} e^{-x_j}, where x sums w from the start of the
    chunk or document: at the bound of w and 64 tokens those are e^{-39} and e^{39}.
    From the middle they would be smaller, but x of a token would hold later decays.

    Args:
      w: log-decay in [-e^{-1/2}, 0], the bound of RWKV-7; stronger ones overflow.
      chunk: tokens of a chunk, a power of two up to LONGEST; by default the backend's.
    """
    T, _, K = r_BxTxHxK.shape[1:]
    C = min(chunks.size(T, chunk, K), LONGEST)
    arrays = (r_BxTxHxK, w_BxTxHxK, k_BxTxHxK, v_BxTxHxV, a_BxTxHxK, b_BxTxHxK)
    r, w, k, v, a, b = (chunks.split(x, C) for x in chunks.masked(seq, *arrays))
    mask = chunks.masks(seq, C)
    x = mask.pairs.astype(w.dtype) @ w
    r, a = r * jnp.exp(x), a * jnp.exp(x - w)
    k, b = k * jnp.exp(-x), b * jnp.exp(-x)
    earlier = jnp.tril(mask.pairs, -1)
    alive, kept = mask.alive[..., None], mask.kept[..., None]

    pairs = lambda mask, rows, columns: jnp.where(mask, rows @ _transposed(columns), 0)
    solve = delta.inverse(-pairs(earlier, a, b))
    u = solve @ (pairs(earlier, a, k) @ v)
    reads = solve @ jnp.where(alive, a, 0)
    update = _transposed(jnp.where(kept, k, 0)) @ v
    b_kept = _transposed(jnp.where(kept, b, 0))
    last = jnp.exp(x[..., -1, :])[..., None]
    whole = mask.alive[..., -1:, None].astype(v.dtype)

    def step(state_BxHxKxV, chunk):
        u, reads, update, b_kept, last, whole = chunk
        error = u + reads @ state_BxHxKxV
        new = last * (whole * state_BxHxKxV + update + b_kept @ error)
        return new, (state_BxHxKxV, error)

    inputs = (u, reads, update, b_kept, last, whole)
    state_BxHxKxV, (before, error) = jax.lax.scan(step, state_BxHxKxV, inputs)
    o = jnp.where(alive, r, 0) @ before
    o += pairs(mask.pairs, r, k) @ v
    o += pairs(mask.pairs, r, b) @ error
    return chunks.join(o, T), state_BxHxKxV
