"""The mLSTM in chunks: C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t,
h_t = C_t^T q_t / max(|n_t . q_t|, 1) with f = sigmoid and i = exp of pre-activations.

Beck et al. 2024, arXiv 2405.04517, eq. 19-27: C and n are kept times exp(-m_t), m_t =
max(log f_t + m_{t-1}, i_t), which h does not feel. Here m_t is at least 0 besides: the
denominator is at least 1, so that nothing more can overflow, and no token or padding is
m = 0 rather than minus infinity.
"""

import jax
import jax.numpy as jnp

from lm.ops import chunks
from lm.sequence import Sequence


def cell(
    q_BxTxHxK,
    k_BxTxHxK,
    v_BxTxHxV,
    i_BxTxH,
    f_BxTxH,
    state,
    seq: Sequence,
    chunk=None,
    eps: float = 1e-6,
):
    """Outputs h_BxTxHxV and the last state, both in float32 or wider.

    Args:
      i, f: pre-activations of any size.
      state: (C_BxHxKxV, n_BxHxK, m_BxH), zeros before any token; m is at least 0.
      chunk: tokens of a chunk, a power of two; by default the backend's.
      eps: added to the denominator.
    """
    T, _, K = q_BxTxHxK.shape[1:]
    size = chunks.size(T, chunk, K)
    wide = jnp.promote_types(f_BxTxH.dtype, jnp.float32)
    g_BxTxH = jax.nn.log_sigmoid(f_BxTxH.astype(wide))
    # Padding is 0: no decay, no key, and an i that does not lift m, at least 0 anyway.
    arrays = chunks.masked(seq, q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, i_BxTxH, g_BxTxH)
    q, k, v, i, g = (chunks.split(x, size) for x in arrays)
    mask = chunks.masks(seq, size)
    C_BxHxKxV, n_BxHxK, m_BxH = state

    # Logs of the weight in token i of token j, and of the state before the chunk.
    pairs = jnp.where(mask.pairs, chunks.between(g) + i[..., None, :], -jnp.inf)
    past = jnp.where(mask.alive, jnp.cumsum(g, -1), -jnp.inf)
    own = jnp.maximum(jnp.max(pairs, -1), 0)  # m, were there nothing before the chunk
    kept = jnp.exp(pairs[..., -1, :] - own[..., -1:])
    k_kept = k * kept[..., None]
    updates = (jnp.swapaxes(k_kept, -1, -2) @ v, jnp.sum(k_kept, -2))

    def step(carry, chunk):
        (C_BxHxKxV, n_BxHxK, m_BxH), (past_BxH, own_BxH, (new_C, new_n)) = carry, chunk
        past_BxH += m_BxH
        new_m = jnp.maximum(past_BxH, own_BxH)
        old, new = (jnp.exp(x - new_m)[..., None] for x in (past_BxH, own_BxH))
        C_BxHxKxV = old[..., None] * C_BxHxKxV + new[..., None] * new_C
        return (C_BxHxKxV, old * n_BxHxK + new * new_n, new_m), carry

    inputs = (past[..., -1], own[..., -1], updates)
    state, before = jax.lax.scan(step, (C_BxHxKxV, n_BxHxK, m_BxH), inputs)
    C_before, n_before, m_before = before

    past += m_before[..., None]
    m = jnp.maximum(past, own)
    weights = (q @ jnp.swapaxes(k, -1, -2)) * jnp.exp(pairs - m[..., None])
    q *= jnp.exp(past - m)[..., None]
    o = weights @ v + q @ C_before
    size = jnp.sum(weights, -1) + jnp.einsum("nbhck,nbhk->nbhc", q, n_before)
    floor = jnp.maximum(jnp.abs(size), jnp.exp(-m))[..., None]
    return chunks.join(o / (floor + eps), T), state
