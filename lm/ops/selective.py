"""Selective scan in chunks: h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t.

Gu and Dao 2023, arXiv 2312.00752, equation 2a, with A discretised exactly and B by
Euler's rule. The states of all tokens are never held at once: the backward pass makes
those of one chunk anew from the state before it.
"""

import functools

import jax
import jax.numpy as jnp

from lm.ops import chunks, diagonal
from lm.sequence import Sequence


def _loop(decay_CxBxNxF, b_CxBxN, u_CxBxF, h_BxNxF):
    """All h_t = decay_t h_{t-1} + b_t u_t, [C, B, N, F], a token at a time."""

    def step(h_BxNxF, token):
        decay_BxNxF, b_BxN, u_BxF = token
        h_BxNxF = decay_BxNxF * h_BxNxF + b_BxN[..., None] * u_BxF[:, None]
        return h_BxNxF, h_BxNxF

    return jax.lax.scan(step, h_BxNxF, (decay_CxBxNxF, b_CxBxN, u_CxBxF))[1]


def _loop_back(decay_CxBxNxF, c_CxBxN, dy_CxBxF, dh_BxNxF):
    """Cotangents g_t = decay_{t+1} g_{t+1} + c_t dy_t of all h_t, and of h_0."""

    def step(dh_BxNxF, token):
        decay_BxNxF, c_BxN, dy_BxF = token
        g_BxNxF = dh_BxNxF + c_BxN[..., None] * dy_BxF[:, None]
        return decay_BxNxF * g_BxNxF, g_BxNxF

    tokens = (decay_CxBxNxF, c_CxBxN, dy_CxBxF)
    dh_BxNxF, g_CxBxNxF = jax.lax.scan(step, dh_BxNxF, tokens, reverse=True)
    return g_CxBxNxF, dh_BxNxF


def _prefix(decay_CxBxNxF, b_CxBxN, u_CxBxF, h_BxNxF):
    x_CxBxNxF = b_CxBxN[..., None] * u_CxBxF[:, :, None]
    return diagonal.associative(decay_CxBxNxF, x_CxBxNxF, h_BxNxF, axis=0)


def _prefix_back(decay_CxBxNxF, c_CxBxN, dy_CxBxF, dh_BxNxF):
    after = jnp.concatenate([decay_CxBxNxF[1:], jnp.ones_like(decay_CxBxNxF[:1])])
    g_CxBxNxF = jnp.flip(
        _prefix(*(jnp.flip(x, 0) for x in (after, c_CxBxN, dy_CxBxF)), dh_BxNxF), 0
    )
    return g_CxBxNxF, decay_CxBxNxF[0] * g_CxBxNxF[0]


# By backend: a parallel prefix is for GPUs.
FORMS = {"cpu": (_loop, _loop_back), "tpu": (_loop, _loop_back)}


def _forms():
    return FORMS.get(jax.default_backend(), (_prefix, _prefix_back))


# Bytes of the states of a chunk, by backend: what stays in a cache.
STATES = {"cpu": 2**21}


def _chunk(state_BxFxN, length: int, chunk: int | None) -> int:
    """Tokens of a chunk: `chunk`; or the backend's, 8 to 32 of which a cache holds."""
    held = STATES.get(jax.default_backend())
    token = state_BxFxN.size * state_BxFxN.dtype.itemsize
    if chunk is None and held:
        chunk = min(chunks.size(length, None), max(8, held // token))
        chunk = 1 << (chunk.bit_length() - 1)
    return chunks.size(length, chunk)


def _decay(dt_CxBxF, keep_CxB, a_NxF):
    return keep_CxB[..., None, None] * jnp.exp(dt_CxBxF[:, :, None] * a_NxF)


def _sum_tokens(p_CxBxNxF):
    """Over C, as a product with ones: a sum XLA:CPU fuses with what makes p, which took
    a quarter of Mamba's time."""
    ones_C = jnp.ones(len(p_CxBxNxF), p_CxBxNxF.dtype)
    return jnp.tensordot(ones_C, p_CxBxNxF, 1, precision="highest")


@jax.custom_vjp
def _scan(u_IxCxBxF, dt_IxCxBxF, a_NxF, b_IxCxBxN, c_IxCxBxN, keep_IxCxB, h_BxNxF):
    """(y_IxCxBxF, the last state) of I chunks; u is dt x, keep is 0 at resets."""
    tokens = (u_IxCxBxF, dt_IxCxBxF, a_NxF, b_IxCxBxN, c_IxCxBxN, keep_IxCxB, h_BxNxF)
    return _forward(*tokens)[0]


def _forward(u_IxCxBxF, dt_IxCxBxF, a_NxF, b_IxCxBxN, c_IxCxBxN, keep_IxCxB, h_BxNxF):
    states, _ = _forms()

    def step(h_BxNxF, chunk):
        u_CxBxF, dt_CxBxF, b_CxBxN, c_CxBxN, keep_CxB = chunk
        decay_CxBxNxF = _decay(dt_CxBxF, keep_CxB, a_NxF)
        h_CxBxNxF = states(decay_CxBxNxF, b_CxBxN, u_CxBxF, h_BxNxF)
        y_CxBxF = jnp.einsum("cbn,cbnf->cbf", c_CxBxN, h_CxBxNxF)
        return h_CxBxNxF[-1], (h_BxNxF, y_CxBxF)

    tokens = (u_IxCxBxF, dt_IxCxBxF, b_IxCxBxN, c_IxCxBxN, keep_IxCxB)
    h_BxNxF, (before_IxBxNxF, y_IxCxBxF) = jax.lax.scan(step, h_BxNxF, tokens)
    return (y_IxCxBxF, h_BxNxF), (tokens, a_NxF, before_IxBxNxF)


def _backward(residuals, cotangents):
    """The adjoint g_t = decay_{t+1} g_{t+1} + C_t dy_t runs backwards; the gradient of
    the exponent of a token's decay is p_t = decay_t h_{t-1} g_t."""
    tokens, a_NxF, before_IxBxNxF = residuals
    dy_IxCxBxF, dh_BxNxF = cotangents
    states, adjoints = _forms()
    # A sum over N term by term: XLA's own reduction writes its broadcasts out.
    sums = lambda p_CxBxNxF: sum(p_CxBxNxF[:, :, n] * a for n, a in enumerate(a_NxF))

    def step(carry, chunk):
        dh_BxNxF, da_BxNxF = carry
        (u_CxBxF, dt_CxBxF, b_CxBxN, c_CxBxN, keep_CxB), h_BxNxF, dy_CxBxF = chunk
        decay_CxBxNxF = _decay(dt_CxBxF, keep_CxB, a_NxF)
        h_CxBxNxF = states(decay_CxBxNxF, b_CxBxN, u_CxBxF, h_BxNxF)
        g_CxBxNxF, dh_BxNxF = adjoints(decay_CxBxNxF, c_CxBxN, dy_CxBxF, dh_BxNxF)
        # Slices rather than a shifted copy: `before` is the state and h of all but one.
        first_BxNxF = decay_CxBxNxF[0] * h_BxNxF * g_CxBxNxF[0]
        p_CxBxNxF = decay_CxBxNxF[1:] * h_CxBxNxF[:-1] * g_CxBxNxF[1:]
        ddt_CxBxF = [sums(first_BxNxF[None]), sums(p_CxBxNxF)]
        da_BxNxF += first_BxNxF * dt_CxBxF[0, :, None]
        da_BxNxF += _sum_tokens(p_CxBxNxF * dt_CxBxF[1:, :, None])
        gradients = (
            jnp.einsum("cbn,cbnf->cbf", b_CxBxN, g_CxBxNxF),
            jnp.concatenate(ddt_CxBxF),
            jnp.einsum("cbnf,cbf->cbn", g_CxBxNxF, u_CxBxF),
            jnp.einsum("cbnf,cbf->cbn", h_CxBxNxF, dy_CxBxF),
        )
        return (dh_BxNxF, da_BxNxF), gradients

    (dh_BxNxF, da_BxNxF), (du, ddt, db, dc) = jax.lax.scan(
        step,
        (dh_BxNxF, jnp.zeros_like(dh_BxNxF)),
        (tokens, before_IxBxNxF, dy_IxCxBxF),
        reverse=True,
    )
    return du, ddt, jnp.sum(da_BxNxF, 0), db, dc, None, dh_BxNxF


_scan.defvjp(_forward, _backward)


def scan(
    x_BxTxF, dt_BxTxF, a_FxN, b_BxTxN, c_BxTxN, state_BxFxN, seq: Sequence, chunk=None
):
    """Outputs y_BxTxF and the last state, both in float32 or wider.

    Args:
      dt_BxTxF: steps in time, at least 0; a_FxN: A, at most 0. dt A is the log-decay of
        a token; any size is safe.
      chunk: tokens whose states are held at once; by default the backend's.
    """
    T = x_BxTxF.shape[1]
    split = functools.partial(_split, chunk=_chunk(state_BxFxN, T, chunk))
    # Zeros for padding: a step of no time neither decays nor adds.
    x_BxTxF, dt_BxTxF, b_BxTxN, c_BxTxN = chunks.masked(
        seq, x_BxTxF, dt_BxTxF, b_BxTxN, c_BxTxN
    )
    keep_BxT = 1 - jnp.asarray(seq.reset).astype(dt_BxTxF.dtype)
    # F last: short rows of N would leave most of a vector register empty.
    y_IxCxBxF, state_BxNxF = _scan(
        split(dt_BxTxF * x_BxTxF),
        split(dt_BxTxF),
        a_FxN.T,
        split(b_BxTxN),
        split(c_BxTxN),
        split(keep_BxT, fill=1),
        jnp.swapaxes(state_BxFxN, 1, 2),
    )
    y_BxTxF = jnp.swapaxes(y_IxCxBxF.reshape(-1, *y_IxCxBxF.shape[2:]), 0, 1)[:, :T]
    return y_BxTxF, jnp.swapaxes(state_BxNxF, 1, 2)


def _split(x_BxTx, chunk: int, fill: float = 0):
    """[B, T, ...] -> [I, C, B, ...], padded to I whole chunks."""
    B, T, *rest = x_BxTx.shape
    pad = [(0, 0), (0, -T % chunk), *[(0, 0)] * len(rest)]
    x_TxBx = jnp.swapaxes(jnp.pad(x_BxTx, pad, constant_values=fill), 0, 1)
    return x_TxBx.reshape(-1, chunk, B, *rest)
