"""Mamba-2: S_t = exp(dt_t A) S_{t-1} + B_t (dt_t x_t)^T, y_t = S_t^T C_t + D x_t.

Dao and Gu 2024, arXiv 2405.21060, section 7: one A a head, and B and C that the heads
of a group share. x, B and C come through a short convolution; the output is
RMSNorm(y_t silu(z_t)), of each group alone.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import linear
from lm.sequence import Sequence


def a_log_init(key, shape, dtype):
    """log of U(1, 16)."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


class Mamba2(Mixer):
    """expand: inner width F over D; state_width: N, the paper's is 128.

    head_width: P; by default 64, or the largest divisor of 64 that divides F.
    groups: G, sets of heads with a B and a C of their own.
    conv_width: tokens of the convolution before the recurrence.
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    expand: int = 2
    state_width: int = 64
    head_width: int | None = None
    groups: int = 1
    conv_width: int = 4
    chunk: int | None = None

    parameter_groups = ((r"/(A_log|D)$", "no_decay"),)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(F, H, P, features of the convolution)."""
        F = self.expand * self.width
        P = self.head_width or math.gcd(64, F)
        return F, F // P, P, F + 2 * self.groups * self.state_width

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        F, H, P, features = self.sizes
        G, N = self.groups, self.state_width
        wide = layers.accumulator(self.dtype)
        inputs = layers.Dense(F + features + H, name="input")(x_BxTxD, seq)
        z_BxTxF, xbc_BxTxI, dt_BxTxH = jnp.split(inputs, [F, F + features], -1)
        bias_init = inits.uniform(self.conv_width**-0.5)
        xbc_BxTxI, buffer_BxWxI = layers.short_conv(
            self, "conv", xbc_BxTxI, self.conv_width, state["conv"], seq, bias_init
        )
        xbc_BxTxI = jax.nn.silu(xbc_BxTxI)
        x_BxTxF, b_BxTxI, c_BxTxI = jnp.split(xbc_BxTxI, [F, F + G * N], -1)
        x_BxTxHxP = x_BxTxF.reshape(B, T, H, P).astype(wide)
        of_groups = lambda x: x.reshape(B, T, G, N)

        dt_bias_H = parameter(self, "dt_bias", inits.time_step, (H,), seq)
        dt_BxTxH = jax.nn.softplus(dt_BxTxH.astype(wide) + dt_bias_H)
        a_log_H = parameter(self, "A_log", a_log_init, (H,), seq)
        y_BxTxHxP, state_BxHxNxP = linear.attention(
            of_groups(c_BxTxI),
            of_groups(b_BxTxI),
            dt_BxTxH[..., None] * x_BxTxHxP,
            -jnp.exp(a_log_H) * dt_BxTxH,
            state["ssm"],
            seq,
            self.chunk,
        )
        d_H = parameter(self, "D", inits.ones, (H,), seq)
        y_BxTxHxP += d_H[:, None] * x_BxTxHxP
        y_BxTxF = y_BxTxHxP.reshape(B, T, F) * jax.nn.silu(z_BxTxF.astype(wide))
        y_BxTxF = self._norm(y_BxTxF, seq).astype(self.dtype)
        y_BxTxD = layers.Dense(self.width, name="output")(y_BxTxF, seq)
        return y_BxTxD, {"ssm": state_BxHxNxP, "conv": buffer_BxWxI}, carry

    def _norm(self, y_BxTxF, seq: Sequence):
        """RMSNorm of each group, with scales for all of F."""
        scale_F = parameter(self, "norm_scale", inits.ones, y_BxTxF.shape[-1:], seq)
        y_NxI = y_BxTxF.reshape(-1, y_BxTxF.shape[-1] // self.groups)
        y_NxI *= jax.lax.rsqrt(jnp.mean(jnp.square(y_NxI), -1, keepdims=True) + 1e-5)
        return y_NxI.reshape(y_BxTxF.shape) * layers.spread(scale_F, y_BxTxF)

    def initial_state(self, batch: int, capacity: int):
        _, H, P, features = self.sizes
        wide = layers.accumulator(self.dtype)
        return {
            "ssm": jnp.zeros((batch, H, self.state_width, P), wide),
            "conv": jnp.zeros((batch, self.conv_width - 1, features), self.dtype),
        }

    def contradiction(self) -> tuple[str, str] | None:
        F, H, P, _ = self.sizes
        if F % P:
            return "head_width", f"does not divide expand * model.width = {F}"
        if H % self.groups:
            return "groups", f"does not divide the {H} heads of width {P}"

    def context_flops(self, length: int) -> int:
        return length * 2 * self.conv_width * self.sizes[-1]
