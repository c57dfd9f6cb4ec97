"""Gated linear attention: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

Yang et al. 2023, arXiv 2312.06635, equation 3 and section 4.4: a_t = sigmoid(W_2 W_1
x_t + b)^(1/16) a key channel, y = W_o (RMSNorm(o) SiLU(W_g x)).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.mixers.base import Mixer
from lm.ops import linear
from lm.sequence import Sequence


class GLA(Mixer):
    """heads: H; key_expand, value_expand: width of all keys, and values, / width.

    gate_rank: of the two matrices that give the decays; gate_divisor: of their log.
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int = 4
    key_expand: float = 0.5
    value_expand: float = 1.0
    gate_rank: int = 16
    gate_divisor: float = 16.0
    chunk: int | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """(K, V) of a head."""
        expands = (self.key_expand, self.value_expand)
        K, V = (int(self.width * expand) // self.heads for expand in expands)
        return K, V

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        (K, V), H = self.sizes, self.heads
        dense = lambda x, name, size, bias=False: layers.Dense(
            size, bias, inits.xavier(2**-2.5), name=name
        )(x, seq)
        split = lambda x: x.reshape(B, T, H, -1)

        decay_BxTxF = dense(x_BxTxD, "decay_rank", self.gate_rank)
        decay_BxTxHxK = split(dense(decay_BxTxF, "decay", H * K, bias=True))
        decay_BxTxHxK = decay_BxTxHxK.astype(layers.accumulator(self.dtype))
        o_BxTxHxV, state = linear.attention(
            split(dense(x_BxTxD, "query", H * K)) * K**-0.5,
            split(dense(x_BxTxD, "key", H * K)),
            split(dense(x_BxTxD, "value", H * V)),
            jax.nn.log_sigmoid(decay_BxTxHxK) / self.gate_divisor,
            state,
            seq,
            self.chunk,
        )
        o_BxTxHxV = layers.RMSNorm(1e-5, name="norm")(o_BxTxHxV, seq)
        o_BxTxF = o_BxTxHxV.astype(self.dtype).reshape(B, T, H * V)
        o_BxTxF *= jax.nn.silu(dense(x_BxTxD, "gate", H * V))
        output = layers.Dense(self.width, init=inits.xavier(2**-1), name="output")
        return output(o_BxTxF, seq), state, carry

    def initial_state(self, batch: int, capacity: int):
        shape = (batch, self.heads, *self.sizes)
        return jnp.zeros(shape, layers.accumulator(self.dtype))

    def contradiction(self) -> tuple[str, str] | None:
        for field in ("key_expand", "value_expand"):
            size = int(self.width * getattr(self, field))
            if size < 1 or size % self.heads:
                return field, f"makes {size} channels for heads={self.heads}"
        if self.gate_divisor <= 0:
            return "gate_divisor", "must be positive"
