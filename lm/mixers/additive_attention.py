"""Additive attention: y_t = sum_s softmax_s(v tanh(W_q x_t + W_k x_s)) x_s W_v.

Bahdanau et al. 2015, arXiv 1409.0473 eq. 5, 6 and A.1.2, over the tokens s <= t of the
document instead of an encoder's; several heads as in arXiv 1706.03762.
"""

import flax.linen as nn

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import attention, cached, kv_cache
from lm.sequence import Sequence


class AdditiveAttention(Mixer):
    """heads: H; key_width: features of a head inside the tanh, by default width / H.

    chunk: longer calls go through in blocks of so many queries and keys.
    bias: whether the tanh has one.
    """

    heads: int = 1
    key_width: int | None = None
    chunk: int | None = None
    bias: bool = False

    norm_after = True
    parameter_kinds = ((r"/score_kernel$", "vector"),)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(H, K, V)."""
        V = self.width // self.heads
        return self.heads, self.key_width or V, V

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        H, K, V = self.sizes
        init = nn.initializers.normal(0.001)  # as B.1 of the paper, and v = 0
        q_BxTxF = layers.Dense(H * K, self.bias, init, name="query")(x_BxTxD, seq)
        k_BxTxF = layers.Dense(H * K, init=init, name="key")(x_BxTxD, seq)
        v_BxTxF = layers.Dense(H * V, name="value")(x_BxTxD, seq)
        score_HxK = parameter(self, "score_kernel", inits.zeros, (H, K), seq)
        y_BxTxHxV, state = cached.attend(
            q_BxTxF.reshape(B, T, H, K),
            k_BxTxF.reshape(B, T, H, K),
            v_BxTxF.reshape(B, T, H, V),
            state,
            seq,
            score=attention.additive,
            weights=score_HxK,
            block=self.chunk or attention.ADDITIVE_BLOCK,
        )
        y_BxTxF = y_BxTxHxV.reshape(B, T, H * V)
        y_BxTxD = layers.Dense(self.width, name="output")(y_BxTxF, seq)
        return y_BxTxD, state, carry

    def initial_state(self, batch: int, capacity: int):
        H, K, V = self.sizes
        return kv_cache.empty_cache(batch, capacity, H, K, self.dtype, V)

    @property
    def state_grows(self) -> bool:
        return True

    def context_flops(self, length: int) -> int:
        H, K, V = self.sizes
        pairs = attention.pairs(length, None)
        # The sum inside the tanh and the tanh are no matrix products.
        return (pairs - length) * 2 * H * (K + V) + pairs * 2 * H * K
