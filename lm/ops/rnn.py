"""Nonlinear recurrences: a scan over time around a cell, input products hoisted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def scan(cell: Callable, state, start, inputs_BxTxF, seq: Sequence):
    """Runs `cell(state, inputs_BxF) -> state` over time.

    Args:
      state: pytree of [B, ...], the state before the first token.
      start: pytree of the same form, what a reset puts in its place.

    Returns:
      (states, state): every state, [B, T, ...], and the last one.
    """

    def choose(condition_B, new, old):
        pick = lambda n, o: jnp.where(
            condition_B.reshape(-1, *[1] * (n.ndim - 1)), n, o
        )
        return jax.tree.map(pick, new, old)

    def step(state, token):
        inputs_BxF, reset_B, valid_B = token
        state = choose(reset_B, start, state)
        state = choose(valid_B, cell(state, inputs_BxF), state)
        return state, state

    time_major = lambda x: jnp.swapaxes(x, 0, 1)
    tokens = (time_major(inputs_BxTxF), seq.reset.T, seq.valid.T)
    state, states = jax.lax.scan(step, state, tokens)
    return jax.tree.map(time_major, states), state


def lstm_cell(state, z_Bx4H, kernel_Hx4H):
    """c = f c + i tanh(g); h = o tanh(c), gates in the order i, f, g, o.

    z is the input's part of the four pre-activations. Hochreiter and Schmidhuber 1997
    with the forget gate of Gers et al. 2000.
    """
    c_BxH, h_BxH = state
    z_Bx4H = z_Bx4H + h_BxH.astype(kernel_Hx4H.dtype) @ kernel_Hx4H
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(z_Bx4H.astype(c_BxH.dtype), 4, -1)
    c_BxH = jax.nn.sigmoid(f_BxH) * c_BxH + jax.nn.sigmoid(i_BxH) * jnp.tanh(g_BxH)
    return c_BxH, jax.nn.sigmoid(o_BxH) * jnp.tanh(c_BxH)


def gru_cell(h_BxH, z_Bx3H, kernel_Hx3H, bias_H):
    """n = tanh(z_n + r (h W_n + b_n)); h = u h + (1 - u) n, gates in the order r, u, n.

    The reset gate acts after the product (Cho et al. 2014, arXiv 1406.1078, in the form
    that cuDNN and torch compute); u keeps the old state.
    """
    r_z, u_z, n_z = jnp.split(z_Bx3H.astype(h_BxH.dtype), 3, -1)
    recurrent_Bx3H = (h_BxH.astype(kernel_Hx3H.dtype) @ kernel_Hx3H).astype(h_BxH.dtype)
    r_h, u_h, n_h = jnp.split(recurrent_Bx3H, 3, -1)
    n_BxH = jnp.tanh(n_z + jax.nn.sigmoid(r_z + r_h) * (n_h + bias_H))
    u_BxH = jax.nn.sigmoid(u_z + u_h)
    return u_BxH * h_BxH + (1 - u_BxH) * n_BxH
