"""The gated delta rule in chunks: S_t = (I - beta_t k_t k_t^T) e^{g_t} S_{t-1} + beta_t
k_t v_t^T, o_t = S_t^T q_t.

DeltaNet (arXiv 2406.06484, eq. 8-11, the WY form) with the scalar decay of Gated
DeltaNet (arXiv 2412.06464, section 3.3). The decay acts first, then the state is read.
"""

import functools

import jax
import jax.numpy as jnp

from lm.ops import chunks
from lm.sequence import Sequence


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def _sums(x, y):
    """x @ y of small matrices, as pointwise work: a product of each costs more."""
    terms = [x[..., :, i, None] * y[..., None, i, :] for i in range(x.shape[-1])]
    return functools.reduce(jnp.add, terms)


@jax.custom_vjp
def inverse(lower):
    """(I + L)^-1 of strictly lower triangular L [.., C, C], C a power of two.

    By halves, [[A, 0], [-D B A, D]]: products of inverses only, so that L with entries
    near 2 is as safe as substitution. A power series of L is not: it loses all digits
    on repeated keys.
    """
    C = lower.shape[-1]
    result = jnp.ones((*lower.shape[:-2], C, 1, 1), lower.dtype)
    half = 1
    while half < C:
        count = C // (2 * half)
        blocks = lower.reshape(*lower.shape[:-2], count, 2, half, count, 2, half)
        at = jnp.arange(count)
        across = jnp.moveaxis(blocks[..., at, 1, :, at, 0, :], 0, -3)
        first, second = result[..., 0::2, :, :], result[..., 1::2, :, :]
        product = _sums if half < 8 else jnp.matmul
        corner = -product(product(second, across), first)
        top = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
        result = jnp.concatenate([top, jnp.concatenate([corner, second], -1)], -2)
        half *= 2
    return result[..., 0, :, :]


def _inverse_forward(lower):
    result = inverse(lower)
    return result, result


def _inverse_backward(result, g):
    return (-jnp.tril(_transposed(result) @ g @ _transposed(result), -1),)


inverse.defvjp(_inverse_forward, _inverse_backward)


def rule(
    q_BxTxHxK,
    k_BxTxHxK,
    v_BxTxHxV,
    beta_BxTxH,
    g_BxTxH,
    state_BxHxKxV,
    seq: Sequence,
    chunk=None,
):
    """Outputs o_BxTxHxV and the last state, both in float32 or wider.

    Args:
      k: of unit length where beta may exceed 1, or the state can grow.
      beta: in [0, 1], or [0, 2] for eigenvalues in [-1, 1].
      g: log-decay, at most 0, or None: no decay.
      chunk: tokens of a chunk, a power of two; by default the backend's.
    """
    T, _, K = q_BxTxHxK.shape[1:]
    C = chunks.size(T, chunk, K)
    if g_BxTxH is None:
        g_BxTxH = jnp.zeros_like(beta_BxTxH)
    arrays = chunks.masked(seq, q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, beta_BxTxH, g_BxTxH)
    q, k, v, beta, g = (chunks.split(x, C) for x in arrays)
    decay = chunks.decays(g, chunks.masks(seq, C))

    k_beta = k * beta[..., None]
    lower = jnp.tril((k_beta @ _transposed(k)) * decay.pairs, -1)
    solve = inverse(lower)
    u = solve @ (v * beta[..., None])
    w = solve @ (k_beta * decay.alive[..., None])
    k_kept = _transposed(k * decay.kept[..., None])

    def step(state_BxHxKxV, chunk):
        u, w, k_kept, whole = chunk
        error_BxHxCxV = u - w @ state_BxHxKxV
        new = whole[..., None, None] * state_BxHxKxV + k_kept @ error_BxHxCxV
        return new, (state_BxHxKxV, error_BxHxCxV)

    inputs = (u, w, k_kept, decay.whole)
    state_BxHxKxV, (before, error) = jax.lax.scan(step, state_BxHxKxV, inputs)
    weights = (q @ _transposed(k)) * decay.pairs
    o = weights @ error + (q * decay.alive[..., None]) @ before
    return chunks.join(o, T), state_BxHxKxV


def product(
    q_BxTxHxK,
    k_BxTxJxHxK,
    v_BxTxJxHxV,
    beta_BxTxJxH,
    g_BxTxH,
    state_BxHxKxV,
    seq: Sequence,
    chunk=None,
):
    """J delta steps a token, a product of J Householder matrices (arXiv 2502.10297).

    The decay acts before a token's first step, the output is read after its last.
    """
    B, T, J = k_BxTxJxHxK.shape[:3]
    flat = lambda x: x.reshape(B, T * J, *x.shape[3:])
    widen = lambda x, before, after: jnp.pad(
        x[:, :, None], ((0, 0), (0, 0), (before, after), *[(0, 0)] * (x.ndim - 2))
    )
    first = lambda x: widen(x, 0, J - 1)
    last = lambda x: widen(x, J - 1, 0)
    repeated = lambda x: jnp.repeat(jnp.asarray(x), J, 1)
    steps = seq._replace(
        segment_ids=repeated(seq.segment_ids),
        positions=repeated(seq.positions),
        reset=repeated(seq.reset) & (jnp.arange(T * J) % J == 0),
        valid=repeated(seq.valid),
    )
    o_BxTJxHxV, state_BxHxKxV = rule(
        flat(last(q_BxTxHxK)),
        flat(k_BxTxJxHxK),
        flat(v_BxTxJxHxV),
        flat(beta_BxTxJxH),
        None if g_BxTxH is None else flat(first(g_BxTxH)),
        state_BxHxKxV,
        steps,
        chunk if T > 1 else 1,  # no chunk longer than the steps of a single token
    )
    return o_BxTJxHxV[:, J - 1 :: J], state_BxHxKxV
