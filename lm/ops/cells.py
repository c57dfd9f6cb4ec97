"""Cells of nonlinear recurrences, pointwise, with derivatives of their own.

A cell keeps what its slopes are made of, its gates rather than what they come from;
slopes are vector work on a whole chunk, and a token's step backwards is few products.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial


class Cell(NamedTuple):
    """A pointwise cell and its derivative, taken in two parts.

    Attributes:
      step: (params, before, z_BxF, r_BxF) -> (state, saved).
      slopes: (params, before, state, saved) -> pull, of a whole chunk at once; and
        pull(d_state) -> (d_params, d_before, dz, dr), token by token and once more for
        the chunk. Leaves of pull are [B, ...]: some of their rows pull those rows.
    """

    step: Callable
    slopes: Callable

    def __call__(self, params, state, z_BxF, r_BxF):
        return self.step(params, state, z_BxF, r_BxF)[0]


def _sides(*parts):
    return jnp.concatenate(parts, -1)


def _gates(z_BxF, sigmoid: tuple[bool, ...]):
    """(sigmoid(z) of the gates so marked and tanh(z) of the others), side by side.

    sigmoid(z) is tanh(z / 2) / 2 + 1 / 2: one function over whole rows, which XLA
    makes vector code of. The barrier keeps it from being computed anew, and gate by
    gate, wherever a gate is read, which doubles the time of a cell on a CPU.
    """
    H = z_BxF.shape[-1] // len(sigmoid)
    marked_F = np.repeat(sigmoid, H)
    scale_F = np.where(marked_F, 0.5, 1.0).astype(z_BxF.dtype)
    shift_F = np.where(marked_F, 0.5, 0.0).astype(z_BxF.dtype)
    return jax.lax.optimization_barrier(jnp.tanh(z_BxF * scale_F) * scale_F + shift_F)


def clipped_relu(x):
    """min(max(x, 0), 1e4): a state that R makes grow stays finite (arXiv 1412.5567)."""
    return jnp.clip(x, 0, 1e4)


def _elman(activation: Callable, slope: Callable) -> Cell:
    """h = activation(x + r); its slope is a function of h."""

    def step(params, h_BxH, x_BxH, r_BxH):
        return activation(x_BxH.astype(h_BxH.dtype) + r_BxH), ()

    def slopes(params, before_BxH, h_BxH, saved):
        return Partial(_elman_pull, slope(h_BxH))

    return Cell(step, slopes)


def _elman_pull(slope_BxH, dh_BxH):
    dz_BxH = dh_BxH * slope_BxH
    return (), jnp.zeros_like(dh_BxH), dz_BxH, dz_BxH


ELMAN = {
    "tanh": _elman(jnp.tanh, lambda h: 1 - h * h),
    "relu": _elman(clipped_relu, lambda h: ((h > 0) & (h < 1e4)).astype(h.dtype)),
}


LSTM_SIGMOIDS = (True, True, False, True)  # of i, f, g, o; g is a tanh


def _lstm_step(params, state, x_Bx4H, r_Bx4H):
    c_BxH, _ = state
    z_Bx4H = x_Bx4H.astype(c_BxH.dtype) + r_Bx4H
    gates_Bx4H = _gates(z_Bx4H, LSTM_SIGMOIDS)
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(gates_Bx4H, 4, -1)
    c_BxH = f_BxH * c_BxH + i_BxH * g_BxH
    return (c_BxH, o_BxH * jnp.tanh(c_BxH)), gates_Bx4H


def _lstm_slopes(params, before, state, gates_Bx4H):
    (before_BxH, _), (c_BxH, _) = before, state
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(gates_Bx4H, 4, -1)
    y_BxH = jnp.tanh(c_BxH)
    marked_4H = np.repeat(LSTM_SIGMOIDS, c_BxH.shape[-1])
    own_Bx4H = jnp.where(marked_4H, gates_Bx4H, 1 + gates_Bx4H) * (1 - gates_Bx4H)
    others_Bx4H = _sides(g_BxH, before_BxH, i_BxH, y_BxH)
    return Partial(_lstm_pull, own_Bx4H * others_Bx4H, o_BxH * (1 - y_BxH**2), f_BxH)


def _lstm_pull(to_gates_Bx4H, to_c_BxH, f_BxH, d_state):
    dc_BxH, dh_BxH = d_state
    dc_BxH = dc_BxH + dh_BxH * to_c_BxH
    to_gates_Bx4xH = to_gates_Bx4H.reshape(-1, 4, dc_BxH.shape[-1])
    output_4x1 = np.arange(4)[:, None] == 3
    d_Bx4xH = jnp.where(output_4x1, dh_BxH[:, None], dc_BxH[:, None])
    dz_Bx4H = (d_Bx4xH * to_gates_Bx4xH).reshape(to_gates_Bx4H.shape)
    return (), (dc_BxH * f_BxH, jnp.zeros_like(dh_BxH)), dz_Bx4H, dz_Bx4H


# c = f c + i tanh(g); h = o tanh(c), gates in the order i, f, g, o: Hochreiter and
# Schmidhuber 1997 with the forget gate of Gers et al. 2000.
LSTM = Cell(_lstm_step, _lstm_slopes)


def _gru_step(bias_H, h_BxH, x_Bx3H, r_Bx3H):
    H = h_BxH.shape[-1]
    x_Bx3H = x_Bx3H.astype(h_BxH.dtype)
    z_Bx2H = x_Bx3H[..., : 2 * H] + r_Bx3H[..., : 2 * H]
    gates_Bx2H = _gates(z_Bx2H, (True, True))
    reset_BxH, u_BxH = jnp.split(gates_Bx2H, 2, -1)
    m_BxH = r_Bx3H[..., 2 * H :] + bias_H
    n_BxH = jnp.tanh(x_Bx3H[..., 2 * H :] + reset_BxH * m_BxH)
    return u_BxH * h_BxH + (1 - u_BxH) * n_BxH, (gates_Bx2H, m_BxH, n_BxH)


def _gru_slopes(bias_H, before_BxH, h_BxH, saved):
    gates_Bx2H, m_BxH, n_BxH = saved
    reset_BxH, u_BxH = jnp.split(gates_Bx2H, 2, -1)
    to_n_BxH = (1 - u_BxH) * (1 - n_BxH**2)
    to_u_BxH = (before_BxH - n_BxH) * u_BxH * (1 - u_BxH)
    to_reset_BxH = to_n_BxH * m_BxH * reset_BxH * (1 - reset_BxH)
    to_z_Bx3H = _sides(to_reset_BxH, to_u_BxH, to_n_BxH)
    to_r_Bx3H = _sides(to_reset_BxH, to_u_BxH, to_n_BxH * reset_BxH)
    return Partial(_gru_pull, to_z_Bx3H, to_r_Bx3H, u_BxH)


def _gru_pull(to_z_Bx3H, to_r_Bx3H, u_BxH, dh_BxH):
    dh_Bx3H = _sides(dh_BxH, dh_BxH, dh_BxH)
    dr_Bx3H = dh_Bx3H * to_r_Bx3H
    d_bias_H = dr_Bx3H[..., 2 * dh_BxH.shape[-1] :].sum(0)
    return d_bias_H, dh_BxH * u_BxH, dh_Bx3H * to_z_Bx3H, dr_Bx3H


# n = tanh(z_n + r (h W_n + b_n)); h = u h + (1 - u) n, gates in the order r, u, n. The
# reset gate acts after the product (Cho et al. 2014, arXiv 1406.1078, in the form that
# cuDNN and torch compute); u keeps the old state.
GRU = Cell(_gru_step, _gru_slopes)


def _slstm(log_forget: Callable) -> Cell:
    """c = f c + i tanh(z); n = f n + i; h = o c / n, gates in the order i, f, z, o.

    arXiv 2405.04517 eq. 8-17: c and n are stored times exp(-m), m the largest exponent
    so far; n = 0 marks a state that holds no token, and no exponent either.
    """

    def cell(params, state, x_Bx4H, r_Bx4H):
        c_BxH, n_BxH, m_BxH, _ = state
        gates_Bx4H = x_Bx4H.astype(c_BxH.dtype) + r_Bx4H
        i_BxH, f_BxH, z_BxH, o_BxH = jnp.split(gates_Bx4H, 4, -1)
        keep_BxH = jnp.where(n_BxH == 0, i_BxH, log_forget(f_BxH) + m_BxH)
        m_BxH = jnp.maximum(i_BxH, keep_BxH)
        i_BxH, f_BxH = jnp.exp(i_BxH - m_BxH), jnp.exp(keep_BxH - m_BxH)
        c_BxH = f_BxH * c_BxH + i_BxH * jnp.tanh(z_BxH)
        n_BxH = f_BxH * n_BxH + i_BxH
        return c_BxH, n_BxH, m_BxH, jax.nn.sigmoid(o_BxH) * c_BxH / n_BxH

    def step(params, state, x_Bx4H, r_Bx4H):
        return cell(params, state, x_Bx4H, r_Bx4H), (x_Bx4H, r_Bx4H)

    def slopes(params, before, state, saved):
        slope = lambda before, saved: jax.vjp(cell, params, before, *saved)[1]
        return Partial(_row_by_row, jax.vmap(slope)(before, saved))

    return Cell(step, slopes)


def _row_by_row(pulls, d_state):
    return jax.vmap(lambda pull, d_state: pull(d_state))(pulls, d_state)


SLSTM = {"sigmoid": _slstm(jax.nn.log_sigmoid), "exp": _slstm(lambda f: f)}
