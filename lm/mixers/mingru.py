"""minGRU: h_t = (1 - z_t) h_{t-1} + z_t g(W x_t), z_t = sigmoid(W_z x_t).

Feng et al. 2024, arXiv 2410.01201, section 3.1 and appendix B: g(x) = x + 0.5, or
sigmoid(x) below 0. Every h_t is a convex combination, so the linear form is stable.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.mixers.base import Mixer
from lm.ops import diagonal
from lm.sequence import Sequence


def g(x):
    """Positive and continuous: x + 0.5, or sigmoid(x) below 0."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


class MinGRU(Mixer):
    """expand: N / width; other than 1 it adds an output projection."""

    expand: float = 1.5

    parts: ClassVar[int] = 2

    @property
    def size(self) -> int:
        return int(self.width * self.expand)

    def gates(self, z):
        """(keep, write) of the pre-activations of the gates."""
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        init = inits.uniform(self.width**-0.5)
        project = layers.Dense(self.parts * self.size, init=init, name="input")
        z_BxTxF = project(x_BxTxD, seq).astype(layers.accumulator(self.dtype))
        x_BxTxN, *gates = jnp.split(z_BxTxF, self.parts, -1)
        keep_BxTxN, write_BxTxN = self.gates(*gates)
        h_BxTxN = diagonal.recurrence(keep_BxTxN, write_BxTxN * g(x_BxTxN), state, seq)
        y_BxTxN = h_BxTxN.astype(x_BxTxD.dtype)
        if self.expand != 1:
            init = inits.uniform(self.size**-0.5)
            y_BxTxN = layers.Dense(self.width, init=init, name="output")(y_BxTxN, seq)
        return y_BxTxN, h_BxTxN[:, -1], carry

    def initial_state(self, batch: int, capacity: int):
        return jnp.zeros((batch, self.size), layers.accumulator(self.dtype))

    def contradiction(self) -> tuple[str, str] | None:
        if self.size < 1:
            return "expand", f"leaves no channel of model.width={self.width}"

    def context_flops(self, length: int) -> int:
        return 2 * length * self.size
