"""Causal softmax attention: y_t = sum_s softmax_s(q_t k_s / sqrt(K)) v_s.

Vaswani et al. 2017, arXiv 1706.03762 eq. 1; grouped queries as in arXiv 2305.13245;
rotary positions as in arXiv 2104.09864; a window as in arXiv 2004.05150.
"""

import flax.linen as nn
import jax.numpy as jnp

from lm import layers
from lm.mixers.base import Mixer
from lm.ops import attention
from lm.sequence import Sequence


class Attention(Mixer):
    """heads: H; kv_heads: G, by default H (MHA), 1 is MQA, between is GQA.

    window: keys that a query sees, its own included; by default all of its document.
    position: "rope" or "none". dropout: of the attention weights.
    """

    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    window: int | None = None
    position: str = "rope"
    rope_theta: float = 10_000.0
    bias: bool = False
    dropout: float = 0.0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(H, G, K)."""
        head_width = self.head_width or self.width // self.heads
        return self.heads, self.kv_heads or self.heads, head_width

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        H, G, K = self.sizes
        qkv_BxTxF = layers.Dense((H + 2 * G) * K, self.bias, name="qkv")(x_BxTxD, seq)
        qkv_BxTxFxK = qkv_BxTxF.reshape(B, T, H + 2 * G, K)
        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = jnp.split(qkv_BxTxFxK, [H, H + G], 2)
        if self.position == "rope":
            q_BxTxHxK = attention.rope(q_BxTxHxK, seq.positions, self.rope_theta)
            k_BxTxGxK = attention.rope(k_BxTxGxK, seq.positions, self.rope_theta)
        y_BxTxHxK = attention.attend(
            q_BxTxHxK,
            jnp.concatenate([state["key"], k_BxTxGxK], 1),
            jnp.concatenate([state["value"], v_BxTxGxK], 1),
            attention.visible(state, seq, self.window),
            lambda weights: layers.dropout(weights, self.dropout, seq, "attention"),
        )
        state = attention.write(state, k_BxTxGxK, v_BxTxGxK, seq)
        y_BxTxF = y_BxTxHxK.reshape(B, T, H * K)
        y_BxTxD = layers.Dense(self.width, self.bias, name="output")(y_BxTxF, seq)
        return y_BxTxD, state, carry

    def initial_state(self, batch: int, capacity: int):
        _, G, K = self.sizes
        slots = capacity if self.window is None else min(capacity, self.window - 1)
        return attention.empty_cache(batch, slots, G, K, self.dtype)

    @property
    def state_grows(self) -> bool:
        return self.window is None

    def context_flops(self, length: int) -> int:
        H, _, K = self.sizes
        return (attention.pairs(length, self.window) - length) * 4 * H * K
