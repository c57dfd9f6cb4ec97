"""Linear attention in chunks: S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

Katharopoulos et al. 2020, arXiv 2006.16236; with one decay a head and token, the state
space dual form of Mamba-2 (arXiv 2405.21060, section 6); with one a key channel, GLA
(arXiv 2312.06635, section 4). Time and memory are linear in T.
"""

import jax
import jax.numpy as jnp

from lm.ops import chunks
from lm.sequence import Sequence


def attention(
    q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, g, state_BxHxKxV, seq: Sequence, chunk=None
):
    """Outputs o_BxTxHxV and the last state, both in float32 or wider.

    Args:
      q, k: of G groups, each of H / G heads in a row; G is H but for decays of a number
        a head.
      g: log-decay, at most 0: None (no decay), [H] (fixed), [B, T, H] (a number a
        token and head) or [B, T, H, K] (one a key channel); any size is safe.
      chunk: tokens of a chunk, a power of two; by default the backend's.
    """
    T, _, K = q_BxTxGxK.shape[1:]
    C = chunks.size(T, chunk, K)
    if g is not None and g.ndim == 1:
        g = jnp.broadcast_to(g, v_BxTxHxV.shape[:3])
    arrays = [q_BxTxGxK, k_BxTxGxK, v_BxTxHxV] + ([] if g is None else [g])
    q, k, v, *g = (chunks.split(x, C) for x in chunks.masked(seq, *arrays))
    mask = chunks.masks(seq, C)
    if not g:
        o, state_BxHxKxV = _undecayed(q, k, v, state_BxHxKxV, mask)
    elif g[0].ndim == 4:
        o, state_BxHxKxV = _scalar(q, k, v, g[0], state_BxHxKxV, mask)
    else:
        o, state_BxHxKxV = _vector(q, k, v, g[0], state_BxHxKxV, mask)
    return chunks.join(o, T), state_BxHxKxV


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def _undecayed(q, k, v, state_BxHxKxV, mask: chunks.Masks):
    """All [N, B, H, C, ...]: products and masks, no exponentials."""
    weights_NxBxHxCxC = jnp.where(mask.pairs, q @ _transposed(k), 0)
    update = _transposed(jnp.where(mask.kept[..., None], k, 0)) @ v
    whole = mask.alive[..., -1:, None].astype(v.dtype)
    before, state_BxHxKxV = chunks.states(whole, update, state_BxHxKxV)
    q = jnp.where(mask.alive[..., None], q, 0)
    return weights_NxBxHxCxC @ v + q @ before, state_BxHxKxV


@jax.custom_vjp
def _spread(products_NxBxGxCxC, decay_NxBxGxRxCxC):
    """Products of a group times the decays of each of its heads."""
    return products_NxBxGxCxC[:, :, :, None] * decay_NxBxGxRxCxC


def _spread_forward(products, decay):
    return _spread(products, decay), (products, decay)


def _spread_backward(residuals, g):
    """A sum over R term by term: XLA's own reduction of it takes ten times as long."""
    products, decay = residuals
    terms = g * decay
    d_products = sum(terms[:, :, :, r] for r in range(terms.shape[3]))
    return d_products, g * products[:, :, :, None]


_spread.defvjp(_spread_forward, _spread_backward)


def _scalar(q, k, v_NxBxHxCxV, g_NxBxHxC, state_BxHxKxV, mask: chunks.Masks):
    """Pairs decay by a C x C matrix, which multiplies that of the products.

    The R heads of a group share its products, and their states are one of K x R V.
    """
    N, B, G, C, K = q.shape
    H, V = v_NxBxHxCxV.shape[2], v_NxBxHxCxV.shape[-1]
    R = H // G
    decay = chunks.decays(g_NxBxHxC, mask)
    heads = lambda x: x.reshape(*x.shape[:2], G, R, *x.shape[3:])
    weights = _spread(q @ _transposed(k), heads(decay.pairs))
    o_NxBxHxCxV = weights.reshape(N, B, H, C, C) @ v_NxBxHxCxV

    beside = lambda x, axis: jnp.moveaxis(x, axis, -2)  # R before V
    kept = beside(heads(v_NxBxHxCxV * decay.kept[..., None]), 3)
    update = _transposed(k) @ kept.reshape(N, B, G, C, R * V)
    state = beside(state_BxHxKxV.reshape(B, G, R, K, V), 2)
    whole = decay.whole.reshape(N, B, G, 1, R, 1)
    before, state = chunks.states(whole, update.reshape(N, B, G, K, R, V), state)
    past = (q @ before.reshape(N, B, G, K, R * V)).reshape(N, B, G, C, R, V)
    past = jnp.moveaxis(past, -2, 3).reshape(N, B, H, C, V)
    state = jnp.moveaxis(state, -2, 2).reshape(B, H, K, V)
    return o_NxBxHxCxV + past * decay.alive[..., None], state


def _vector(q, k, v, g_NxBxHxCxK, state_BxHxKxV, mask: chunks.Masks):
    """Pairs decay channel by channel; see `pairs`."""
    weights_NxBxHxCxC, from_start, to_end = pairs(q, k, g_NxBxHxCxK)
    weights_NxBxHxCxC = jnp.where(mask.pairs, weights_NxBxHxCxC, 0)
    exp = lambda keep, x: jnp.exp(jnp.where(keep[..., None], x, -jnp.inf))
    alive = exp(mask.alive, from_start)
    update = _transposed(k * exp(mask.kept, to_end)) @ v
    before, state_BxHxKxV = chunks.states(
        alive[..., -1, :, None], update, state_BxHxKxV
    )
    return weights_NxBxHxCxC @ v + (q * alive) @ before, state_BxHxKxV


def pairs(q, k, g):
    """sum_c q_ic k_jc exp(sum of g_lc over j < l <= i) for j <= i, [.., C, C].

    Pairs are grouped by the halving of the chunk that first parts them: q decays back
    to the middle and k on to it, so no exponent is positive and nothing overflows,
    however strong the decay. log2(C) levels of products.

    Returns:
      (products, sums of g from the chunk's start up to i, from after i to its end).
    """
    *batch, C, K = q.shape
    products = jnp.sum(q * k, -1)[..., None, None]  # [.., C, 1, 1]: the diagonal
    from_start, to_end = g[..., None, :], jnp.zeros_like(g)[..., None, :]
    half = 1
    while half < C:
        cut = lambda x, half=half: jnp.split(
            x.reshape(*batch, C // (2 * half), 2, *x.shape[-2:]), 2, -3
        )
        left, right = (x[..., 0, :, :] for x in cut(products))
        halves = lambda x, half=half: x.reshape(*batch, C // (2 * half), 2, half, K)
        start, end = halves(from_start), halves(to_end)
        q_right = halves(q)[..., 1, :, :] * jnp.exp(start[..., 1, :, :])
        k_left = halves(k)[..., 0, :, :] * jnp.exp(end[..., 0, :, :])
        across = q_right @ _transposed(k_left)
        products = jnp.concatenate(
            [
                jnp.concatenate([left, jnp.zeros_like(across)], -1),
                jnp.concatenate([across, right], -1),
            ],
            -2,
        )
        whole_left, whole_right = start[..., 0, -1:, :], start[..., 1, -1:, :]
        from_start = jnp.concatenate(
            [start[..., 0, :, :], start[..., 1, :, :] + whole_left], -2
        )
        to_end = jnp.concatenate(
            [end[..., 0, :, :] + whole_right, end[..., 1, :, :]], -2
        )
        half *= 2
    return products[..., 0, :, :], from_start[..., 0, :, :], to_end[..., 0, :, :]
