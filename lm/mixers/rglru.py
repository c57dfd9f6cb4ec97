"""RG-LRU: a_t = exp(-8 softplus(L) r_t), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t).

The recurrent block of Griffin and Hawk (De et al. 2024, arXiv 2402.19427, section 2.4):
a gate branch GeLU(W_y x), and W_x x through a short convolution into the recurrence.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import conv, diagonal
from lm.sequence import Sequence


@jax.custom_jvp
def bounded_sqrt(x):
    """sqrt whose derivative is at most 1000: 1 - a^2 reaches 0 at saturated gates."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    root = jnp.sqrt(primals[0])
    return root, tangents[0] * 0.5 / jnp.maximum(root, 0.5e-3)


def decay_init(key, shape, dtype):
    """L with exp(-softplus(L)) uniform by area in the ring [0.9, 0.999]."""
    squared = jax.random.uniform(key, shape, dtype, 0.9**2, 0.999**2)
    return jnp.log(jnp.expm1(-0.5 * jnp.log(squared)))


class RGLRU(Mixer):
    """lru_width: R, by default the width; heads: blocks of the gates' matrices."""

    lru_width: int | None = None
    heads: int = 4
    conv_width: int = 4

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        R = self.lru_width or self.width
        wide = layers.accumulator(self.dtype)
        gate_BxTxR = layers.Dense(R, bias=True, name="gate")(x_BxTxD, seq)
        x_BxTxR = layers.Dense(R, bias=True, name="input")(x_BxTxD, seq)

        kernel_WxR = parameter(
            self,
            "conv_kernel",
            layers.truncated_normal((0.01 / self.conv_width) ** 0.5),
            (self.conv_width, R),
            seq,
        ).astype(x_BxTxR.dtype)
        bias_R = parameter(self, "conv_bias", layers.zeros, (R,), seq)
        x_BxTxR, buffer_BxWxR = conv.short(x_BxTxR, kernel_WxR, state["conv"], seq)
        x_BxTxR += bias_R.astype(x_BxTxR.dtype)

        log_a_BxTxR = -8.0 * self._gate("recurrence_gate", x_BxTxR, seq)
        decay_R = parameter(self, "decay", decay_init, (R,), seq)
        log_a_BxTxR *= jax.nn.softplus(decay_R)
        x_BxTxR = x_BxTxR.astype(wide) * self._gate("input_gate", x_BxTxR, seq)
        scale_BxTxR = bounded_sqrt(-jnp.expm1(2 * log_a_BxTxR))
        reset_BxTx1, valid_BxTx1 = seq.reset[..., None], seq.valid[..., None]
        x_BxTxR *= jnp.where(reset_BxTx1, 1, scale_BxTxR)
        a_BxTxR = jnp.where(reset_BxTx1, 0, jnp.exp(log_a_BxTxR))
        h_BxTxR = diagonal.scan(
            jnp.where(valid_BxTx1, a_BxTxR, 1),
            jnp.where(valid_BxTx1, x_BxTxR, 0),
            state["h"],
        )
        y_BxTxR = h_BxTxR.astype(x_BxTxD.dtype) * jax.nn.gelu(gate_BxTxR)
        y_BxTxD = layers.Dense(self.width, bias=True, name="output")(y_BxTxR, seq)
        return y_BxTxD, {"h": h_BxTxR[:, -1], "conv": buffer_BxWxR}, carry

    def _gate(self, name: str, x_BxTxR, seq: Sequence):
        """sigmoid(x W + b) with a block-diagonal W, in float32 or wider."""
        B, T, R = x_BxTxR.shape
        size = R // self.heads
        shape = (self.heads, size, size)
        kernel_HxKxK = parameter(self, f"{name}_kernel", layers.fan_in, shape, seq)
        bias_R = parameter(self, f"{name}_bias", layers.zeros, (R,), seq)
        x_BxTxHxK = x_BxTxR.reshape(B, T, self.heads, size)
        kernel_HxKxK = kernel_HxKxK.astype(x_BxTxR.dtype)
        z_BxTxHxK = jnp.einsum("bthi,hij->bthj", x_BxTxHxK, kernel_HxKxK)
        z_BxTxR = z_BxTxHxK.reshape(B, T, R).astype(layers.accumulator(self.dtype))
        return jax.nn.sigmoid(z_BxTxR + bias_R)

    def initial_state(self, batch: int, capacity: int):
        R = self.lru_width or self.width
        return {
            "h": jnp.zeros((batch, R), layers.accumulator(self.dtype)),
            "conv": jnp.zeros((batch, self.conv_width - 1, R), self.dtype),
        }

    def context_flops(self, length: int) -> int:
        R = self.lru_width or self.width
        return length * R * (2 + 2 * self.conv_width)
