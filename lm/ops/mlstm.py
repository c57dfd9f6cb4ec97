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
    # n is one more column of C: that of a value of 1.
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
    C_BxHxKxV, n_BxHxK, m_BxH = state
    C_BxHxKxV = jnp.concatenate([C_BxHxKxV, n_BxHxK[..., None]], -1)

    # Logs of the weight in token i of token j, and of the state before the chunk.
    pairs = jnp.where(mask.pairs, chunks.between(g) + i[..., None, :], -jnp.inf)
    past = jnp.where(mask.alive, jnp.cumsum(g, -1), -jnp.inf)
    own = jnp.maximum(jnp.max(pairs, -1), 0)  # m, were there nothing before the chunk
    kept = jnp.exp(pairs[..., -1, :] - own[..., -1:])
    update = jnp.swapaxes(k * kept[..., None], -1, -2) @ v

    def step(carry, chunk):
        (C_BxHxKxV, m_BxH), (past_BxH, own_BxH, update) = carry, chunk
        past_BxH += m_BxH
        new_BxH = jnp.maximum(past_BxH, own_BxH)
        scale = lambda log_BxH: jnp.exp(log_BxH - new_BxH)[..., None, None]
        C_BxHxKxV = scale(past_BxH) * C_BxHxKxV + scale(own_BxH) * update
        return (C_BxHxKxV, new_BxH), carry

    major = lambda x: jnp.moveaxis(x, 1, 0)
    inputs = tuple(map(major, (past[..., -1], own[..., -1], update)))
    last, before = jax.lax.scan(step, (C_BxHxKxV, m_BxH), inputs)
    C_before, m_before = (jnp.moveaxis(x, 0, 1) for x in before)

    past += m_before[..., None]
    m = jnp.maximum(past, own)
    weights = (q @ jnp.swapaxes(k, -1, -2)) * jnp.exp(pairs - m[..., None])
    o = weights @ v + (q * jnp.exp(past - m)[..., None]) @ C_before
    floor = jnp.maximum(jnp.abs(o[..., -1:]), jnp.exp(-m)[..., None])
    C_BxHxKxV, m_BxH = last
    state = (C_BxHxKxV[..., :-1], C_BxHxKxV[..., -1], m_BxH)
    return chunks.join(o[..., :-1] / (floor + eps), T), state
