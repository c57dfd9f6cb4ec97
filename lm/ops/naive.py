"""Every matrix-state op as its definition: one token after another, under autodiff.

The fast forms are tested against these in float64, and timed against them in
benchmarks/ops.py. The signatures are the same.
"""

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def fold(step, state, start, tokens, seq: Sequence):
    """Scan of `step(state, token) -> (state, output)` with resets and padding.

    Args:
      state: pytree [B, ...]; `start` is what a reset puts in its place.
      tokens: pytree [B, T, ...].

    Returns:
      (outputs [B, T, ...], the last state).
    """
    major = lambda x: jnp.swapaxes(jnp.asarray(x), 0, 1)

    def choose(condition_B, new, old):
        wide = lambda x: condition_B.reshape(-1, *[1] * (x.ndim - 1))
        return jax.tree.map(lambda n, o: jnp.where(wide(n), n, o), new, old)

    def body(state, inputs):
        token, reset_B, valid_B = inputs
        state = choose(reset_B, start, state)
        new, output = step(state, token)
        return choose(valid_B, new, state), output

    inputs = jax.tree.map(major, (tokens, seq.reset, seq.valid))
    state, outputs = jax.lax.scan(body, state, inputs)
    return jax.tree.map(major, outputs), state


def _zeros(state):
    return jax.tree.map(jnp.zeros_like, state)


def _channels(g, k_BxTxHxK):
    """A log-decay of any form as one a token, head and key channel."""
    if g is None:
        return jnp.zeros_like(k_BxTxHxK)
    g = g if g.ndim == 4 else g[..., None]  # [H, 1] or [B, T, H, 1] otherwise
    return jnp.broadcast_to(g, k_BxTxHxK.shape)


def linear(q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, g, state_BxHxKxV, seq: Sequence):
    """S = exp(g) S + k v^T; o = S^T q."""
    of_heads = lambda x: jnp.repeat(x, v_BxTxHxV.shape[2] // x.shape[2], 2)
    q_BxTxHxK, k_BxTxHxK = of_heads(q_BxTxGxK), of_heads(k_BxTxGxK)

    def step(state, token):
        q, k, v, g = token
        state = jnp.exp(g)[..., None] * state + k[..., None] * v[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, q)

    tokens = (q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, _channels(g, k_BxTxHxK))
    return fold(step, state_BxHxKxV, _zeros(state_BxHxKxV), tokens, seq)


def delta(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, beta_BxTxH, g, state_BxHxKxV, seq: Sequence):
    """S = exp(g) S; S = S + beta k (v - S^T k)^T; o = S^T q."""

    def step(state, token):
        q, k, v, beta, g = token
        state = jnp.exp(g)[..., None] * state
        error = beta[..., None] * (v - jnp.einsum("bhkv,bhk->bhv", state, k))
        state = state + k[..., None] * error[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, q)

    tokens = (q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, beta_BxTxH, _channels(g, k_BxTxHxK))
    return fold(step, state_BxHxKxV, _zeros(state_BxHxKxV), tokens, seq)


def dplr(
    r_BxTxHxK,
    w_BxTxHxK,
    k_BxTxHxK,
    v_BxTxHxV,
    a_BxTxHxK,
    b_BxTxHxK,
    state_BxHxKxV,
    seq: Sequence,
):
    """S = exp(w) S + k v^T + b (S^T a)^T, all of the old S; o = S^T r."""

    def step(state, token):
        r, w, k, v, a, b = token
        read = jnp.einsum("bhkv,bhk->bhv", state, a)
        state = jnp.exp(w)[..., None] * state + k[..., None] * v[..., None, :]
        state += b[..., None] * read[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, r)

    tokens = (r_BxTxHxK, w_BxTxHxK, k_BxTxHxK, v_BxTxHxV, a_BxTxHxK, b_BxTxHxK)
    return fold(step, state_BxHxKxV, _zeros(state_BxHxKxV), tokens, seq)


def mlstm(
    q_BxTxHxK,
    k_BxTxHxK,
    v_BxTxHxV,
    i_BxTxH,
    f_BxTxH,
    state,
    seq: Sequence,
    eps: float = 1e-6,
):
    """m = max(log f + m, i, 0); C and n times e^-m; h = C^T q / max(|n.q|, e^-m)."""

    def step(state, token):
        (C, n, m), (q, k, v, i, log_f) = state, token
        new = jnp.maximum(jnp.maximum(log_f + m, i), 0)
        f, i = jnp.exp(log_f + m - new)[..., None], jnp.exp(i - new)[..., None]
        C = f[..., None] * C + (i * k)[..., None] * v[..., None, :]
        n = f * n + i * k
        size = jnp.abs(jnp.sum(n * q, -1, keepdims=True))
        size = jnp.maximum(size, jnp.exp(-new)[..., None])
        return (C, n, new), jnp.einsum("bhkv,bhk->bhv", C, q) / (size + eps)

    log_f_BxTxH = jax.nn.log_sigmoid(f_BxTxH)
    tokens = (q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, i_BxTxH, log_f_BxTxH)
    return fold(step, state, _zeros(state), tokens, seq)


def selective(x_BxTxF, dt_BxTxF, a_FxN, b_BxTxN, c_BxTxN, state_BxFxN, seq: Sequence):
    """h = exp(dt A) h + dt B x; y = C h."""

    def step(h_BxFxN, token):
        x_BxF, dt_BxF, b_BxN, c_BxN = token
        h_BxFxN = jnp.exp(dt_BxF[..., None] * a_FxN) * h_BxFxN
        h_BxFxN = h_BxFxN + (dt_BxF * x_BxF)[..., None] * b_BxN[:, None]
        return h_BxFxN, jnp.einsum("bfn,bn->bf", h_BxFxN, c_BxN)

    tokens = (x_BxTxF, dt_BxTxF, b_BxTxN, c_BxTxN)
    return fold(step, state_BxFxN, _zeros(state_BxFxN), tokens, seq)
