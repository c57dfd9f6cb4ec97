"""sLSTM: c_t = f_t c_{t-1} + i_t z_t, n_t = f_t n_{t-1} + i_t, h_t = o_t c_t / n_t.

Beck et al. 2024, arXiv 2405.04517, eq. 8-17: i_t is an exponential, f_t a sigmoid or an
exponential; all matrices are block-diagonal over heads. A short convolution feeds i and
f, and a norm of each head follows, as in the block of the paper's figure 10.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import dropout, inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import cells, products, rnn
from lm.sequence import Sequence


class SLSTM(Mixer):
    """heads: blocks of every matrix, of width / heads.

    conv_width: taps of the convolution, with SiLU, before i and f; None: none.
    forget: the forget gate.
    weight_dropout: rate of DropConnect on the recurrent kernel, in training.
    """

    heads: int = 4
    conv_width: int | None = 4
    forget: str = "sigmoid"
    weight_dropout: float = 0.0

    choices = {"forget": tuple(cells.SLSTM)}

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, D = x_BxTxD.shape
        K = D // self.heads
        conv_BxTxD, new = x_BxTxD, {}
        if self.conv_width:
            conv_BxTxD, new["conv"] = layers.short_conv(
                self,
                "conv",
                x_BxTxD,
                self.conv_width,
                state["conv"],
                seq,
                inits.zeros,
            )
            conv_BxTxD = jax.nn.silu(conv_BxTxD)
        gates = [
            self._blocks("input_gate", conv_BxTxD, seq),
            self._blocks("forget_gate", conv_BxTxD, seq),
            self._blocks("cell_input", x_BxTxD, seq),
            self._blocks("output_gate", x_BxTxD, seq),
        ]
        bias_F = parameter(self, "bias", self._bias_init(seq.layer), (4 * D,), seq)
        kernel_HxKxF = parameter(
            self, "recurrent_kernel", inits.zeros, (self.heads, K, 4 * K), seq
        )
        kernel_HxKxF = dropout.connections(
            kernel_HxKxF, self.weight_dropout, seq, "recurrent_kernel"
        )
        z_BxTxF = jnp.concatenate(gates, -1)
        h_BxTxD, new["cell"] = rnn.scan(
            cells.SLSTM[self.forget],
            (),
            kernel_HxKxF.astype(x_BxTxD.dtype),
            z_BxTxF.astype(layers.accumulator(self.dtype)) + bias_F,
            state["cell"],
            self.initial_state(B, 0)["cell"],
            seq,
        )
        h_BxTxHxK = h_BxTxD.reshape(B, T, self.heads, K)
        h_BxTxHxK = layers.HeadNorm(bias=False, name="norm")(h_BxTxHxK, seq)
        return h_BxTxHxK.reshape(B, T, D).astype(x_BxTxD.dtype), new, carry

    def _blocks(self, name: str, x_BxTxD, seq: Sequence):
        """x W with one block of W a head, small as in arXiv 1910.05895."""
        K = self.width // self.heads
        init = nn.initializers.normal((2 / (5 * self.width)) ** 0.5)
        shape = (self.heads, K, K)
        kernel_HxKxK = parameter(self, f"{name}_kernel", init, shape, seq)
        return products.product(x_BxTxD, kernel_HxKxK.astype(x_BxTxD.dtype))

    def _bias_init(self, layer):
        """Forget gates from sigmoid(5) to sigmoid(-7) over each head; others 0."""

        def init(key, shape, dtype):
            depth = (0 if layer is None else layer) / max(self.layers - 1, 1)
            K = self.width // self.heads
            spread_K = jnp.arange(K, dtype=dtype) / max(K - 1, 1)
            forget_K = 5 - 12 * spread_K ** (0.3 + 1.3 * depth)
            zeros_HxK = jnp.zeros((self.heads, K), dtype)
            gates_4xHxK = jnp.stack([zeros_HxK, zeros_HxK + forget_K] + 2 * [zeros_HxK])
            return gates_4xHxK.reshape(shape)

        return init

    def initial_state(self, batch: int, capacity: int):
        zeros_BxD = jnp.zeros((batch, self.width), layers.accumulator(self.dtype))
        cell = {"cell": (zeros_BxD,) * 4}
        if not self.conv_width:
            return cell
        shape = (batch, self.conv_width - 1, self.width)
        return cell | {"conv": jnp.zeros(shape, self.dtype)}

    def context_flops(self, length: int) -> int:
        return length * self.width * (4 + 2 * (self.conv_width or 0))
