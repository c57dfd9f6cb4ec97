"""LSTM: c_t = f_t c_{t-1} + i_t tanh(g_t), h_t = o_t tanh(c_t).

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

import flax.linen as nn
import jax.numpy as jnp

from lm import layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import rnn
from lm.sequence import Sequence


class LSTM(Mixer):
    """hidden: H, by default the width; another one adds an output projection.

    forget_bias: initial bias of f, which starts as sigmoid(forget_bias).
    """

    hidden: int | None = None
    forget_bias: float = 1.0

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        H = self.hidden or self.width

        def bias_init(key, shape, dtype):
            return jnp.zeros(shape, dtype).at[H : 2 * H].set(self.forget_bias)

        z_BxTx4H = layers.Dense(4 * H, name="input")(x_BxTxD, seq)
        bias_4H = parameter(self, "bias", bias_init, (4 * H,), seq)
        kernel_Hx4H = parameter(
            self, "recurrent_kernel", layers.orthogonal_gates, (H, 4 * H), seq
        ).astype(x_BxTxD.dtype)
        (_, h_BxTxH), state = rnn.scan(
            lambda state, z_Bx4H: rnn.lstm_cell(state, z_Bx4H, kernel_Hx4H),
            state,
            self.initial_state(x_BxTxD.shape[0], 0),
            z_BxTx4H + bias_4H.astype(z_BxTx4H.dtype),
            seq,
        )
        y_BxTxH = h_BxTxH.astype(x_BxTxD.dtype)
        if self.width != H:
            y_BxTxH = layers.Dense(self.width, name="output")(y_BxTxH, seq)
        return y_BxTxH, state, carry

    def initial_state(self, batch: int, capacity: int):
        zeros_BxH = jnp.zeros(
            (batch, self.hidden or self.width), layers.accumulator(self.dtype)
        )
        return zeros_BxH, zeros_BxH
