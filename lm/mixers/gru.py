"""GRU: h_t = u_t h_{t-1} + (1 - u_t) tanh(W x_t + r_t (U h_{t-1} + b)).

Cho et al. 2014, arXiv 1406.1078, with the reset gate after the product as in cuDNN.
"""

import flax.linen as nn
import jax.numpy as jnp

from lm import layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import rnn
from lm.sequence import Sequence


class GRU(Mixer):
    """hidden: H, by default the width; another one adds an output projection.

    update_bias: initial bias of u, which keeps the old state.
    """

    hidden: int | None = None
    update_bias: float = 1.0

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        H = self.hidden or self.width

        def bias_init(key, shape, dtype):
            return jnp.zeros(shape, dtype).at[H : 2 * H].set(self.update_bias)

        z_BxTx3H = layers.Dense(3 * H, name="input")(x_BxTxD, seq)
        bias_3H = parameter(self, "bias", bias_init, (3 * H,), seq)
        bias_H = parameter(self, "candidate_bias", layers.zeros, (H,), seq)
        kernel_Hx3H = parameter(
            self, "recurrent_kernel", layers.orthogonal_gates, (H, 3 * H), seq
        ).astype(x_BxTxD.dtype)
        h_BxTxH, state = rnn.scan(
            lambda h_BxH, z_Bx3H: rnn.gru_cell(h_BxH, z_Bx3H, kernel_Hx3H, bias_H),
            state,
            self.initial_state(x_BxTxD.shape[0], 0),
            z_BxTx3H + bias_3H.astype(z_BxTx3H.dtype),
            seq,
        )
        y_BxTxH = h_BxTxH.astype(x_BxTxD.dtype)
        if self.width != H:
            y_BxTxH = layers.Dense(self.width, name="output")(y_BxTxH, seq)
        return y_BxTxH, state, carry

    def initial_state(self, batch: int, capacity: int):
        return jnp.zeros(
            (batch, self.hidden or self.width), layers.accumulator(self.dtype)
        )
