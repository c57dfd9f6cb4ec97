"""Retention: S_t = gamma S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

RetNet, Sun et al. 2023, arXiv 2307.08621, equations 6 to 8: gamma = 1 - 2^(-5-h) of the
head h, from 0; q and k turn with their position in the document; the output is
W_o (GroupNorm(o) SiLU(W_g x)). Angles and initialisation are those of its code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.mixers.base import Mixer
from lm.ops import attention, linear
from lm.sequence import Sequence


class RetNet(Mixer):
    """heads: H; value_expand: width of all values / width.

    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int = 4
    value_expand: float = 2.0
    chunk: int | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """(K, V) of a head."""
        values = int(self.width * self.value_expand)
        return self.width // self.heads, values // self.heads

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        (K, V), H = self.sizes, self.heads
        # The first pair turns by 1 a token and the last by 1 / 10,000.
        theta = 10_000.0 ** (K / max(K - 2, 1))

        def project(name: str, size: int):
            dense = layers.Dense(H * size, init=inits.xavier(2**-2.5), name=name)
            return dense(x_BxTxD, seq).reshape(B, T, H, size)

        rotate = lambda x: attention.rope(x, seq.positions, theta, "interleaved")
        q_BxTxHxK = rotate(project("query", K))
        k_BxTxHxK = rotate(project("key", K) * K**-0.5)
        h_H = jnp.arange(H, dtype=layers.accumulator(self.dtype))
        o_BxTxHxV, state = linear.attention(
            q_BxTxHxK,
            k_BxTxHxK,
            project("value", V),
            jnp.log1p(-(2.0 ** (-5 - h_H))),
            state,
            seq,
            self.chunk,
        )
        o_BxTxHxV = layers.standardize(o_BxTxHxV, 1e-6).astype(self.dtype)
        o_BxTxHxV *= jax.nn.silu(project("gate", V))
        output = layers.Dense(self.width, init=inits.xavier(2**-1), name="output")
        return output(o_BxTxHxV.reshape(B, T, H * V), seq), state, carry

    def initial_state(self, batch: int, capacity: int):
        shape = (batch, self.heads, *self.sizes)
        return jnp.zeros(shape, layers.accumulator(self.dtype))

    def contradiction(self) -> tuple[str, str] | None:
        values = int(self.width * self.value_expand)
        if values < 1 or values % self.heads:
            return "value_expand", f"makes {values} values for heads={self.heads}"
        if self.sizes[0] % 2:
            return "heads", f"needs an even head width, and it is {self.sizes[0]}"
