"""Mamba: h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t + D x_t.

Gu and Dao 2023, arXiv 2312.00752, section 3: dt_t, B_t and C_t follow from x_t, which
comes through a short convolution; the output is y_t silu(z_t).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import selective
from lm.sequence import Sequence


def a_log_init(key, shape, dtype):
    """log of 1 to N in every channel: the real initialisation of S4D."""
    count_N = jnp.arange(1, shape[-1] + 1, dtype=dtype)
    return jnp.broadcast_to(jnp.log(count_N), shape)


class Mamba(Mixer):
    """expand: inner width F over D; state_width: N, states of an inner channel.

    conv_width: tokens of the convolution before the recurrence.
    dt_rank: R, of the product that makes dt; by default D / 16, rounded up.
    chunk: tokens whose states are held at once; by default the backend's.
    """

    expand: int = 2
    state_width: int = 16
    conv_width: int = 4
    dt_rank: int | None = None
    chunk: int | None = None

    parameter_groups = ((r"/(A_log|D)$", "no_decay"),)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        F, N = self.expand * self.width, self.state_width
        R = self.dt_rank or -(-self.width // 16)
        wide = layers.accumulator(self.dtype)
        xz_BxTxF = layers.Dense(2 * F, name="input")(x_BxTxD, seq)
        x_BxTxF, z_BxTxF = jnp.split(xz_BxTxF, 2, -1)
        bias_init = inits.uniform(self.conv_width**-0.5)
        x_BxTxF, buffer_BxWxF = layers.short_conv(
            self, "conv", x_BxTxF, self.conv_width, state["conv"], seq, bias_init
        )
        x_BxTxF = jax.nn.silu(x_BxTxF)

        selection = layers.Dense(R + 2 * N, name="selection")(x_BxTxF, seq)
        dt_BxTxR, b_BxTxN, c_BxTxN = jnp.split(selection, [R, R + N], -1)
        dt_init = inits.uniform(R**-0.5)
        dt_BxTxF = layers.Dense(F, init=dt_init, name="dt")(dt_BxTxR, seq).astype(wide)
        dt_BxTxF += parameter(self, "dt_bias", inits.time_step, (F,), seq)
        a_log_FxN = parameter(self, "A_log", a_log_init, (F, N), seq)
        y_BxTxF, state_BxFxN = selective.scan(
            x_BxTxF,
            jax.nn.softplus(dt_BxTxF),
            -jnp.exp(a_log_FxN),
            b_BxTxN,
            c_BxTxN,
            state["ssm"],
            seq,
            self.chunk,
        )
        y_BxTxF += parameter(self, "D", inits.ones, (F,), seq) * x_BxTxF
        y_BxTxF = (y_BxTxF * jax.nn.silu(z_BxTxF.astype(wide))).astype(self.dtype)
        y_BxTxD = layers.Dense(self.width, name="output")(y_BxTxF, seq)
        return y_BxTxD, {"ssm": state_BxFxN, "conv": buffer_BxWxF}, carry

    def initial_state(self, batch: int, capacity: int):
        F, N = self.expand * self.width, self.state_width
        return {
            "ssm": jnp.zeros((batch, F, N), layers.accumulator(self.dtype)),
            "conv": jnp.zeros((batch, self.conv_width - 1, F), self.dtype),
        }

    def context_flops(self, length: int) -> int:
        # A state takes the products dt A and B (dt x), and multiply-adds for h and y.
        pointwise = 6 * self.state_width + 2 * self.conv_width
        return length * self.expand * self.width * pointwise
