"""What nonlinear recurrent mixers share: the products around a cell, and its state."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from lm import dropout, inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import rnn
from lm.ops.cells import Cell
from lm.sequence import Sequence


class Kernel(nn.Module):
    """The kernel of a Dense layer whose product is taken elsewhere."""

    features: int
    init: Callable

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        shape = (x_BxTxD.shape[-1], self.features)
        return parameter(self, "kernel", self.init, shape, seq)


class Recurrent(Mixer):
    """x W + b for all gates at once, then a cell of lm/ops/cells.py over time.

    hidden: H, by default the width; another one adds an output projection.
    weight_dropout: rate of DropConnect on the recurrent kernel, in training.
    """

    hidden: int | None = None
    weight_dropout: float = 0.0

    gates: ClassVar[int]
    input_init: ClassVar[Callable] = staticmethod(inits.fan_in)
    bias_init: ClassVar[Callable] = staticmethod(inits.zeros)
    recurrent_init: ClassVar[Callable] = staticmethod(inits.orthogonal_gates)

    def make_cell(self, seq: Sequence) -> tuple[Cell, Any]:
        """(cell, its parameters) for rnn.scan."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        H = self.hidden or self.width
        F = self.gates * H
        kernel_DxF = Kernel(F, self.input_init, name="input")(x_BxTxD, seq)
        bias_F = parameter(self, "bias", self.bias_init, (F,), seq)
        kernel_HxF = parameter(
            self, "recurrent_kernel", self.recurrent_init, (H, F), seq
        )
        kernel_HxF = dropout.connections(
            kernel_HxF, self.weight_dropout, seq, "recurrent_kernel"
        )
        dtype = x_BxTxD.dtype
        y_BxTxH, state = rnn.scan(
            *self.make_cell(seq),
            kernel_HxF.astype(dtype),
            x_BxTxD,
            state,
            self.initial_state(x_BxTxD.shape[0], 0),
            seq,
            (kernel_DxF.astype(dtype), bias_F.astype(dtype)),
        )
        y_BxTxH = y_BxTxH.astype(dtype)
        if y_BxTxH.shape[-1] != self.width:
            y_BxTxH = layers.Dense(self.width, name="output")(y_BxTxH, seq)
        return y_BxTxH, state, carry

    def zeros(self, batch: int):
        """A state of zeros, [B, H]."""
        dtype = layers.accumulator(self.dtype)
        return jnp.zeros((batch, self.hidden or self.width), dtype)


class Gated(Recurrent):
    """A cell whose second gate keeps the old state.

    hidden and weight_dropout as in Recurrent. remember: initial bias of that gate.
    """

    remember: float = 1.0

    def bias_init(self, key, shape, dtype):
        H = shape[0] // self.gates
        return jnp.zeros(shape, dtype).at[H : 2 * H].set(self.remember)
