"""RG-LRU: a_t = exp(-8 softplus(L) r_t), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t).

The recurrent block of Griffin and Hawk (De et al. 2024, arXiv 2402.19427, section 2.4):
a gate branch GeLU(W_y x), and W_x x through a short convolution into the recurrence.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import diagonal
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
    """lru_width: N, by default the width; heads: blocks of the gates' matrices."""

    lru_width: int | None = None
    heads: int = 4
    conv_width: int = 4

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        N = self.lru_width or self.width
        wide = layers.accumulator(self.dtype)
        gate_BxTxN = layers.Dense(N, bias=True, name="gate")(x_BxTxD, seq)
        x_BxTxN = layers.Dense(N, bias=True, name="input")(x_BxTxD, seq)

        conv_init = inits.truncated_normal((0.01 / self.conv_width) ** 0.5)
        x_BxTxN, buffer_BxWxN = layers.short_conv(
            self,
            "conv",
            x_BxTxN,
            self.conv_width,
            state["conv"],
            seq,
            inits.zeros,
            conv_init,
        )

        log_a_BxTxN = -8.0 * self._gate("recurrence_gate", x_BxTxN, seq)
        decay_N = parameter(self, "decay", decay_init, (N,), seq)
        log_a_BxTxN *= layers.spread(jax.nn.softplus(decay_N), log_a_BxTxN)
        x_BxTxN = x_BxTxN.astype(wide) * self._gate("input_gate", x_BxTxN, seq)
        scale_BxTxN = bounded_sqrt(-jnp.expm1(2 * log_a_BxTxN))
        x_BxTxN *= jnp.where(seq.reset[..., None], 1, scale_BxTxN)
        h_BxTxN = diagonal.recurrence(jnp.exp(log_a_BxTxN), x_BxTxN, state["h"], seq)
        y_BxTxN = h_BxTxN.astype(x_BxTxD.dtype) * jax.nn.gelu(gate_BxTxN)
        y_BxTxD = layers.Dense(self.width, bias=True, name="output")(y_BxTxN, seq)
        return y_BxTxD, {"h": h_BxTxN[:, -1], "conv": buffer_BxWxN}, carry

    def _gate(self, name: str, x_BxTxN, seq: Sequence):
        """sigmoid(x W + b) with a block-diagonal W, in float32 or wider."""
        B, T, N = x_BxTxN.shape
        size = N // self.heads
        shape = (self.heads, size, size)
        kernel_HxKxK = parameter(self, f"{name}_kernel", inits.fan_in, shape, seq)
        bias_N = parameter(self, f"{name}_bias", inits.zeros, (N,), seq)
        x_BxTxHxK = x_BxTxN.reshape(B, T, self.heads, size)
        kernel_HxKxK = kernel_HxKxK.astype(x_BxTxN.dtype)
        z_BxTxHxK = jnp.einsum("bthi,hij->bthj", x_BxTxHxK, kernel_HxKxK)
        z_BxTxN = z_BxTxHxK.reshape(B, T, N).astype(layers.accumulator(self.dtype))
        return jax.nn.sigmoid(z_BxTxN + layers.spread(bias_N, z_BxTxN))

    def initial_state(self, batch: int, capacity: int):
        N = self.lru_width or self.width
        return {
            "h": jnp.zeros((batch, N), layers.accumulator(self.dtype)),
            "conv": jnp.zeros((batch, self.conv_width - 1, N), self.dtype),
        }

    def context_flops(self, length: int) -> int:
        N = self.lru_width or self.width
        return length * N * (2 + 2 * self.conv_width)
