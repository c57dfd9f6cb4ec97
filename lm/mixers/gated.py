"""What nonlinear recurrent mixers share: the products around a cell, and its state."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from lm import layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import rnn
from lm.sequence import Sequence


class Gated(Mixer):
    """x W + b for all gates at once, then a scan of `cell`; h is the output.

    hidden: H, by default the width; another one adds an output projection.
    remember: initial bias of the gate that keeps the old state, the second one.
    """

    hidden: int | None = None
    remember: float = 1.0

    gates: ClassVar[int]

    def make_cell(self, kernel_HxF, seq: Sequence):
        """cell(state, z_BxF) -> state, from the recurrent kernel; F = gates * H."""
        raise NotImplementedError

    def output(self, states):
        """h_BxTxH of the states of all tokens."""
        return states

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        H = self.hidden or self.width
        F = self.gates * H

        def bias_init(key, shape, dtype):
            return jnp.zeros(shape, dtype).at[H : 2 * H].set(self.remember)

        z_BxTxF = layers.Dense(F, name="input")(x_BxTxD, seq)
        bias_F = parameter(self, "bias", bias_init, (F,), seq)
        kernel_HxF = parameter(
            self, "recurrent_kernel", layers.orthogonal_gates, (H, F), seq
        )
        states, state = rnn.scan(
            self.make_cell(kernel_HxF.astype(x_BxTxD.dtype), seq),
            state,
            self.initial_state(x_BxTxD.shape[0], 0),
            z_BxTxF + bias_F.astype(z_BxTxF.dtype),
            seq,
        )
        y_BxTxH = self.output(states).astype(x_BxTxD.dtype)
        if y_BxTxH.shape[-1] != self.width:
            y_BxTxH = layers.Dense(self.width, name="output")(y_BxTxH, seq)
        return y_BxTxH, state, carry

    def zeros(self, batch: int):
        """A state of zeros, [B, H]."""
        dtype = layers.accumulator(self.dtype)
        return jnp.zeros((batch, self.hidden or self.width), dtype)
