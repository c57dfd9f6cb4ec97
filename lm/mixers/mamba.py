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
    selection: what dt, B and C follow from: "input", or "none": they are constants of a
      layer, and the recurrence is S4D's with a real A (Gu et al. 2022, arXiv
      2206.11893). B is born as ones and C as normal, as there, but shared by channels.
    gate: "silu": the output is y silu(z); "none": y, and there is no z.
    chunk: tokens whose states are held at once; by default the backend's.
    """

    expand: int = 2
    state_width: int = 16
    conv_width: int = 4
    dt_rank: int | None = None
    selection: str = "input"
    gate: str = "silu"
    chunk: int | None = None

    choices = {"selection": ("input", "none"), "gate": ("silu", "none")}
    parameter_groups = ((r"/(A_log|B|C|D)$", "no_decay"),)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        F, N = self.expand * self.width, self.state_width
        wide = layers.accumulator(self.dtype)
        gated = self.gate == "silu"
        inputs = layers.Dense(2 * F if gated else F, name="input")(x_BxTxD, seq)
        x_BxTxF, z_BxTxF = jnp.split(inputs, [F], -1)
        bias_init = inits.uniform(self.conv_width**-0.5)
        x_BxTxF, buffer_BxWxF = layers.short_conv(
            self, "conv", x_BxTxF, self.conv_width, state["conv"], seq, bias_init
        )
        x_BxTxF = jax.nn.silu(x_BxTxF)

        select = self._constant if self.selection == "none" else self._selected
        dt_BxTxF, b_BxTxN, c_BxTxN = select(x_BxTxF, seq)
        dt_bias_F = parameter(self, "dt_bias", inits.time_step, (F,), seq)
        dt_BxTxF += layers.spread(dt_bias_F, dt_BxTxF)
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
        d_F = parameter(self, "D", inits.ones, (F,), seq)
        y_BxTxF += layers.spread(d_F, x_BxTxF) * x_BxTxF
        if gated:
            y_BxTxF *= jax.nn.silu(z_BxTxF.astype(wide))
        y_BxTxF = y_BxTxF.astype(self.dtype)
        y_BxTxD = layers.Dense(self.width, name="output")(y_BxTxF, seq)
        return y_BxTxD, {"ssm": state_BxFxN, "conv": buffer_BxWxF}, carry

    def _selected(self, x_BxTxF, seq: Sequence):
        """(dt before its bias, B, C) of every token, from the token."""
        F, N = x_BxTxF.shape[-1], self.state_width
        R = self.dt_rank or -(-self.width // 16)
        selection = layers.Dense(R + 2 * N, name="selection")(x_BxTxF, seq)
        dt_BxTxR, b_BxTxN, c_BxTxN = jnp.split(selection, [R, R + N], -1)
        dt_init = inits.uniform(R**-0.5)
        dt_BxTxF = layers.Dense(F, init=dt_init, name="dt")(dt_BxTxR, seq)
        return dt_BxTxF.astype(layers.accumulator(self.dtype)), b_BxTxN, c_BxTxN

    def _constant(self, x_BxTxF, seq: Sequence):
        """The same, alike for all tokens."""
        N, wide = self.state_width, layers.accumulator(self.dtype)
        b_N = parameter(self, "B", inits.ones, (N,), seq)
        c_N = parameter(self, "C", nn.initializers.normal(1.0), (N,), seq)
        tokens = lambda x_N: jnp.broadcast_to(x_N, (*x_BxTxF.shape[:2], N))
        return jnp.zeros(x_BxTxF.shape, wide), tokens(b_N), tokens(c_N)

    def contradiction(self) -> tuple[str, str] | None:
        if self.selection == "none" and self.dt_rank is not None:
            return "dt_rank", "is of selection='input': a constant dt has no product"

    def initial_state(self, batch: int, capacity: int):
        F, N = self.expand * self.width, self.state_width
        return {
            "ssm": jnp.zeros((batch, F, N), layers.accumulator(self.dtype)),
            "conv": jnp.zeros((batch, self.conv_width - 1, F), self.dtype),
        }

    def context_flops(self, length: int) -> int:
        # A state takes the products B (dt x) and, unless it is constant, dt A, and a
        # multiply-add for h; that of y is a matrix product.
        products = 3 if self.selection == "none" else 4
        pointwise = products * self.state_width + 2 * self.conv_width
        return length * self.expand * self.width * pointwise
