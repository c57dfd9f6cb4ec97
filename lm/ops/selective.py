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
    C = chunks.size(T, chunk)
    # Zeros for padding: a step of no time neither decays nor adds.
    tokens = chunks.masked(seq, x_BxTxF, dt_BxTxF, b_BxTxN, c_BxTxN)
    # F last: short rows of N would leave most of a vector register empty.
    a_NxF = a_FxN.T

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(state_BxNxF, inputs):
        x_BxCxF, dt_BxCxF, b_BxCxN, c_BxCxN, reset_BxC = inputs
        decay_BxCxNxF = jnp.exp(dt_BxCxF[..., None, :] * a_NxF)
        decay_BxCxNxF = jnp.where(reset_BxC[..., None, None], 0, decay_BxCxNxF)
        u_BxCxNxF = b_BxCxN[..., None] * (dt_BxCxF * x_BxCxF)[..., None, :]
        h_BxCxNxF = diagonal.scan(decay_BxCxNxF, u_BxCxNxF, state_BxNxF)
        return h_BxCxNxF[:, -1], jnp.sum(c_BxCxN[..., None] * h_BxCxNxF, -2)

    inputs = [_split(x, C) for x in (*tokens, jnp.asarray(seq.reset))]
    state_BxNxF = jnp.swapaxes(state_BxFxN, 1, 2)
    state_BxNxF, y_IxBxCxF = jax.lax.scan(step, state_BxNxF, inputs)
    y_BxIxCxF = jnp.swapaxes(y_IxBxCxF, 0, 1)
    y_BxTxF = y_BxIxCxF.reshape(len(state_BxFxN), -1, a_FxN.shape[0])[:, :T]
    return y_BxTxF, jnp.swapaxes(state_BxNxF, 1, 2)


def _split(x_BxTx, chunk: int):
    """[B, T, ...] -> [I, B, C, ...], padded with zeros to I whole chunks."""
    B, T, *rest = x_BxTx.shape
    pad = [(0, 0), (0, -T % chunk), *[(0, 0)] * len(rest)]
    return jnp.swapaxes(jnp.pad(x_BxTx, pad).reshape(B, -1, chunk, *rest), 0, 1)
