"""Diagonal linear recurrence h_t = a_t h_{t-1} + x_t, elementwise."""

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def _time_major(x):
    return jnp.swapaxes(x, 0, 1)


@jax.custom_vjp
def sequential(a_BxTxD, x_BxTxD, h_BxD):
    """One multiply-add a token: the fastest form on a CPU, forward and backward."""

    def step(h_BxD, ax):
        h_BxD = ax[0] * h_BxD + ax[1]
        return h_BxD, h_BxD

    inputs = (_time_major(a_BxTxD), _time_major(x_BxTxD))
    return _time_major(jax.lax.scan(step, h_BxD, inputs)[1])


def _forward(a_BxTxD, x_BxTxD, h_BxD):
    h_BxTxD = sequential(a_BxTxD, x_BxTxD, h_BxD)
    return h_BxTxD, (a_BxTxD, h_BxTxD, h_BxD)


def _backward(residuals, g_BxTxD):
    """The adjoint is the same recurrence, backwards: dx_t = g_t + a_{t+1} dx_{t+1}."""
    a_BxTxD, h_BxTxD, h_BxD = residuals
    next_BxTxD = jnp.concatenate([a_BxTxD[:, 1:], jnp.zeros_like(a_BxTxD[:, :1])], 1)

    def step(dx_BxD, ag):
        dx_BxD = ag[1] + ag[0] * dx_BxD
        return dx_BxD, dx_BxD

    inputs = (_time_major(next_BxTxD), _time_major(g_BxTxD))
    dx_BxTxD = _time_major(
        jax.lax.scan(step, jnp.zeros_like(h_BxD), inputs, reverse=True)[1]
    )
    previous_BxTxD = jnp.concatenate([h_BxD[:, None], h_BxTxD[:, :-1]], 1)
    return dx_BxTxD * previous_BxTxD, dx_BxTxD, a_BxTxD[:, 0] * dx_BxTxD[:, 0]


sequential.defvjp(_forward, _backward)


def associative(a_BxTxD, x_BxTxD, h_BxD, axis: int = 1):
    """log2(T) levels of a parallel prefix (Blelloch 1990) over `axis`: for GPUs."""
    first = (slice(None),) * axis + (0,)
    x_BxTxD = x_BxTxD.at[first].add(a_BxTxD[first] * h_BxD)
    combine = lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1])
    return jax.lax.associative_scan(combine, (a_BxTxD, x_BxTxD), axis=axis)[1]


FORMS = {"cpu": sequential, "tpu": sequential}


def scan(a_BxTxD, x_BxTxD, h_BxD):
    """All states h_BxTxD of h_t = a_t h_{t-1} + x_t; h_BxD is the one before them."""
    return FORMS.get(jax.default_backend(), associative)(a_BxTxD, x_BxTxD, h_BxD)


def recurrence(a_BxTxD, x_BxTxD, h_BxD, seq: Sequence):
    """`scan` over the documents of rows: a reset forgets, padding is an identity.

    Returns:
      h_BxTxD; the last one is the state after the row.
    """
    reset_BxTx1, valid_BxTx1 = seq.reset[..., None], seq.valid[..., None]
    a_BxTxD = jnp.where(valid_BxTx1, jnp.where(reset_BxTx1, 0, a_BxTxD), 1)
    return scan(a_BxTxD, jnp.where(valid_BxTx1, x_BxTxD, 0), h_BxD)
