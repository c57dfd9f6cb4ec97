"""Nonlinear recurrences s_t = cell(s_{t-1}, x_t, h_{t-1} R), and their cells.

h is the last leaf of the state s. The adjoint loop yields the cotangent of h_{t-1} R of
each token; the gradient of R is then one product over all tokens, not a sum in a loop.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def product(h_BxH, kernel):
    """h R, [..., F] in the dtype of h, gate by gate.

    Args:
      kernel: R, [H, F]; or one block a head, [N, H / N, F / N], gate by gate.
    """
    if kernel.ndim == 2:
        return (h_BxH.astype(kernel.dtype) @ kernel).astype(h_BxH.dtype)
    heads, K, _ = kernel.shape
    h_BxNxK = h_BxH.reshape(*h_BxH.shape[:-1], heads, K).astype(kernel.dtype)
    r_BxNxF = jnp.einsum("...nk,nkf->...nf", h_BxNxK, kernel)
    r_BxNxGxK = r_BxNxF.reshape(*h_BxNxK.shape[:-1], -1, K)
    r_BxF = jnp.swapaxes(r_BxNxGxK, -2, -3).reshape(*h_BxH.shape[:-1], -1)
    return r_BxF.astype(h_BxH.dtype)


def _choose(condition, new, old):
    """Per leaf: `new` where the condition on its leading axes holds."""

    def pick(n, o):
        axes = [1] * (o.ndim - condition.ndim)
        return jnp.where(condition.reshape(*condition.shape, *axes), n, o)

    return jax.tree.map(pick, new, old)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _add(one, two):
    return jax.tree.map(jnp.add, one, two)


def _hidden(state):
    return jax.tree.leaves(state)[-1]


def _forward(cell, params, kernel, x_TxBxF, state, start, reset_TxB, valid_TxB):
    def step(state, token):
        x_BxF, reset_B, valid_B = token
        state = _choose(reset_B, start, state)
        r_BxF = product(_hidden(state), kernel)
        state = _choose(valid_B, cell(params, state, x_BxF, r_BxF), state)
        return state, (state, r_BxF)

    tokens = (x_TxBxF, reset_TxB, valid_TxB)
    _, (states, r_TxBxF) = jax.lax.scan(step, state, tokens)
    return states, (params, kernel, state, start, tokens, states, r_TxBxF)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(cell, params, kernel, x_TxBxF, state, start, reset_TxB, valid_TxB):
    """Every state, [T, B, ...]."""
    return _forward(cell, params, kernel, x_TxBxF, state, start, reset_TxB, valid_TxB)[
        0
    ]


def _backward(cell, residuals, g_states):
    params, kernel, state, start, tokens, states, r_TxBxF = residuals
    shift = lambda first, rest: jnp.concatenate([first[None], rest[:-1]])
    before = _choose(tokens[1], start, jax.tree.map(shift, state, states))
    h_TxBxH = _hidden(before)
    to_h = jax.linear_transpose(lambda h_BxH: product(h_BxH, kernel), h_TxBxH[0])

    def step(carry, token):
        d_state, d_params, d_start = carry
        g_state, before, r_BxF, (x_BxF, reset_B, valid_B) = token
        d_state = _add(d_state, g_state)
        _, pull = jax.vjp(cell, params, before, x_BxF, r_BxF)
        nothing = _zeros(d_state)
        own, d_before, dx_BxF, dr_BxF = pull(_choose(valid_B, d_state, nothing))
        d_before = _add(d_before, _choose(valid_B, nothing, d_state))
        *others, dh_BxH = jax.tree.leaves(d_before)
        leaves = [*others, dh_BxH + to_h(dr_BxF)[0]]
        d_before = jax.tree.unflatten(jax.tree.structure(d_before), leaves)
        d_start = _add(d_start, _choose(reset_B, d_before, nothing))
        d_state = _choose(reset_B, nothing, d_before)
        return (d_state, _add(d_params, own), d_start), (dx_BxF, dr_BxF)

    carry = (_zeros(state), _zeros(params), _zeros(start))
    (d_state, d_params, d_start), (dx_TxBxF, dr_TxBxF) = jax.lax.scan(
        step, carry, (g_states, before, r_TxBxF, tokens), reverse=True
    )
    to_kernel = jax.linear_transpose(lambda R: product(h_TxBxH, R), kernel)
    return d_params, to_kernel(dr_TxBxF)[0], dx_TxBxF, d_state, d_start, None, None


_scan.defvjp(_forward, _backward)


def scan(cell: Callable, params, kernel, inputs_BxTxF, state, start, seq: Sequence):
    """Runs `cell(params, state, x_BxF, r_BxF) -> state` over time, r = h R.

    Args:
      cell: pointwise; `params` are its own parameters, a pytree.
      kernel: R, dense or in blocks: see `product`.
      state: pytree of [B, ...], the state before the first token; h is its last leaf.
      start: pytree of the same form, what a reset puts in its place.

    Returns:
      (states, state): every state, [B, T, ...], and the last one.
    """
    time_major = lambda x: jnp.swapaxes(x, 0, 1)
    flags = (time_major(seq.reset), time_major(seq.valid))
    inputs_TxBxF = time_major(inputs_BxTxF)
    states = _scan(cell, params, kernel, inputs_TxBxF, state, start, *flags)
    last = jax.tree.map(lambda x: x[-1], states)
    return jax.tree.map(time_major, states), last


def clipped_relu(x):
    """min(max(x, 0), 1e4): a state that R makes grow stays finite (arXiv 1412.5567)."""
    return jnp.clip(x, 0, 1e4)


ACTIVATIONS = {"tanh": jnp.tanh, "relu": clipped_relu}


def elman_cell(activation: Callable, params, h_BxH, x_BxH, r_BxH):
    """h = activation(x + r)."""
    return activation(x_BxH.astype(h_BxH.dtype) + r_BxH)


def lstm_cell(params, state, x_Bx4H, r_Bx4H):
    """c = f c + i tanh(g); h = o tanh(c), gates in the order i, f, g, o.

    Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000.
    """
    c_BxH, _ = state
    z_Bx4H = x_Bx4H.astype(c_BxH.dtype) + r_Bx4H
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(z_Bx4H, 4, -1)
    c_BxH = jax.nn.sigmoid(f_BxH) * c_BxH + jax.nn.sigmoid(i_BxH) * jnp.tanh(g_BxH)
    return c_BxH, jax.nn.sigmoid(o_BxH) * jnp.tanh(c_BxH)


def gru_cell(bias_H, h_BxH, x_Bx3H, r_Bx3H):
    """n = tanh(z_n + r (h W_n + b_n)); h = u h + (1 - u) n, gates in the order r, u, n.

    The reset gate acts after the product (Cho et al. 2014, arXiv 1406.1078, in the form
    that cuDNN and torch compute); u keeps the old state.
    """
    r_z, u_z, n_z = jnp.split(x_Bx3H.astype(h_BxH.dtype), 3, -1)
    r_h, u_h, n_h = jnp.split(r_Bx3H, 3, -1)
    n_BxH = jnp.tanh(n_z + jax.nn.sigmoid(r_z + r_h) * (n_h + bias_H))
    u_BxH = jax.nn.sigmoid(u_z + u_h)
    return u_BxH * h_BxH + (1 - u_BxH) * n_BxH


FORGET = {"sigmoid": jax.nn.log_sigmoid, "exp": lambda f: f}


def slstm_cell(log_forget: Callable, params, state, x_Bx4H, r_Bx4H):
    """c = f c + i tanh(z); n = f n + i; h = o c / n, gates in the order i, f, z, o.

    arXiv 2405.04517 eq. 8-17: c and n are stored times exp(-m), m the largest exponent
    so far; n = 0 marks a state that holds no token, and no exponent either.
    """
    c_BxH, n_BxH, m_BxH, _ = state
    gates_Bx4H = x_Bx4H.astype(c_BxH.dtype) + r_Bx4H
    i_BxH, f_BxH, z_BxH, o_BxH = jnp.split(gates_Bx4H, 4, -1)
    keep_BxH = jnp.where(n_BxH == 0, i_BxH, log_forget(f_BxH) + m_BxH)
    m_BxH = jnp.maximum(i_BxH, keep_BxH)
    i_BxH, f_BxH = jnp.exp(i_BxH - m_BxH), jnp.exp(keep_BxH - m_BxH)
    c_BxH = f_BxH * c_BxH + i_BxH * jnp.tanh(z_BxH)
    n_BxH = f_BxH * n_BxH + i_BxH
    return c_BxH, n_BxH, m_BxH, jax.nn.sigmoid(o_BxH) * c_BxH / n_BxH
