"""Softmax attention: y_t = sum_s softmax_s(q_t k_s / sqrt(K)) v_s.

Vaswani et al. 2017, arXiv 1706.03762 eq. 1; grouped queries as in arXiv 2305.13245;
rotary positions as in arXiv 2104.09864; a window as in arXiv 2004.05150.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import layers
from lm.dropout import Dropout
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import attention, cached, kv_cache
from lm.sequence import Sequence


class Attention(Mixer):
    """heads: H; kv_heads: G, by default H (MHA), 1 is MQA, between is GQA.

    window: keys that a query sees, its own included; by default all of its document.
    position: "rope", "rope_interleaved" (pairs are neighbours, as in GPT-J), "alibi"
    (arXiv 2108.12409) or "none"; rope_fraction: the part of a head's features, from the
    first, that turns. rope_scaling: (factor,), or Llama 3's (factor, low, high,
    original context), for contexts beyond training's; see ops.attention.frequencies.
    qk_norm: RMSNorm of queries and keys before their positions, "rms_head" of each head
    with scales that heads share (Qwen3), "rms_all" over all heads (OLMo 2);
    qk_norm_eps: what they add to the mean square.
    scale: of the products q k, by default K^-1/2. soft_cap: c of c tanh(logits / c)
    (Gemma 2, arXiv 2408.00118). sinks: a learned logit a head that takes part in the
    softmax without a value (gpt-oss, arXiv 2508.10925).
    bias: of queries, keys, values and output; output_bias: of the last, where it is not
    as that of the others.
    gate: "sigmoid" multiplies each output feature by sigmoid(W x) (arXiv 2505.06708).
    causal: False lets a query see all of its document in the same call, as in BERT
    (arXiv 1810.04805); nothing is kept of a call then, and all pairs are held at once.
    block: longer calls go through in blocks of so many tokens; by default the op
    decides by size. dropout: of the attention weights, which holds all of them.
    """

    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    window: int | None = None
    position: str = "rope"
    rope_theta: float = 10_000.0
    rope_fraction: float = 1.0
    rope_scaling: tuple[float, ...] = ()
    qk_norm: str = "none"
    qk_norm_eps: float = 1e-6
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False
    gate: str = "none"
    causal: bool = True
    block: int | None = None
    bias: bool = False
    output_bias: bool | None = None
    dropout: float = 0.0

    norm_after = True
    choices = {
        "position": ("rope", "rope_interleaved", "alibi", "none"),
        "qk_norm": ("none", "rms_head", "rms_all"),
        "gate": ("none", "sigmoid"),
    }

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(H, G, K)."""
        head_width = self.head_width or self.width // self.heads
        return self.heads, self.kv_heads or self.heads, head_width

    @property
    def turned(self) -> int:
        """Features of a head that have rotary positions."""
        return int(self.rope_fraction * self.sizes[2])

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        H, G, K = self.sizes
        qkv_BxTxF = layers.Dense((H + 2 * G) * K, self.bias, name="qkv")(x_BxTxD, seq)
        # Split before the heads are apart: gradients are joined faster in two axes.
        parts = jnp.split(qkv_BxTxF, [H * K, (H + G) * K], -1)
        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = (x.reshape(B, T, -1, K) for x in parts)
        q_BxTxHxK = self._placed(self._normed("q_norm", q_BxTxHxK, seq), seq)
        k_BxTxGxK = self._placed(self._normed("k_norm", k_BxTxGxK, seq), seq)
        sinks_H = None
        if self.sinks:
            sinks_H = parameter(
                self, "sink_bias", nn.initializers.normal(0.02), (H,), seq
            )
        drop = None
        if self.dropout and seq.key is not None:
            drop = lambda p: Dropout(self.dropout)(p, seq, "attention")
        y_BxTxHxK, state = cached.attend(
            q_BxTxHxK,
            k_BxTxGxK,
            v_BxTxGxK,
            state,
            seq,
            score=functools.partial(
                attention.dot,
                scale=K**-0.5 if self.scale is None else self.scale,
                soft_cap=self.soft_cap,
                slopes=attention.alibi_slopes(H) if self.position == "alibi" else None,
            ),
            window=self.window,
            sinks_H=sinks_H,
            block=self.block,
            drop=drop,
            causal=self.causal,
        )
        y_BxTxF = y_BxTxHxK.reshape(B, T, H * K)
        if self.gate == "sigmoid":
            gate_BxTxF = layers.Dense(H * K, self.bias, name="gate")(x_BxTxD, seq)
            y_BxTxF *= jax.nn.sigmoid(gate_BxTxF)
        bias = self.bias if self.output_bias is None else self.output_bias
        y_BxTxD = layers.Dense(self.width, bias, name="output")(y_BxTxF, seq)
        return y_BxTxD, state, carry

    def _normed(self, name: str, x_BxTxHxK, seq: Sequence):
        if self.qk_norm == "none":
            return x_BxTxHxK
        shape = x_BxTxHxK.shape
        if self.qk_norm == "rms_all":
            x_BxTxHxK = x_BxTxHxK.reshape(*shape[:2], -1)
        return layers.RMSNorm(self.qk_norm_eps, name=name)(x_BxTxHxK, seq).reshape(
            shape
        )

    def _placed(self, x_BxTxHxK, seq: Sequence):
        if not self.position.startswith("rope"):
            return x_BxTxHxK
        pairing = "interleaved" if self.position == "rope_interleaved" else "halves"
        turned, rest = jnp.split(x_BxTxHxK, [self.turned], -1)
        turned = attention.rope(
            turned, seq.positions, self.rope_theta, pairing, self.rope_scaling
        )
        return jnp.concatenate([turned, rest], -1)

    def initial_state(self, batch: int, capacity: int):
        _, G, K = self.sizes
        slots = capacity if self.window is None else min(capacity, self.window - 1)
        slots = slots if self.causal else 0
        return kv_cache.empty_cache(batch, slots, G, K, self.dtype)

    def contradiction(self) -> tuple[str, str] | None:
        if self.soft_cap is not None and self.soft_cap <= 0:
            return "soft_cap", "must be positive"
        if not self.causal and (self.window or self.position == "alibi"):
            return "causal", "takes neither a window nor position='alibi'"
        if words := self._wrong_scaling():
            return "rope_scaling", words
        if not 0 < self.rope_fraction <= 1:
            return "rope_fraction", "must be in (0, 1]"
        if self.position.startswith("rope"):
            if self.rope_fraction == 1 and self.turned % 2:
                return "position", f"needs an even head width, and it is {self.turned}"
            if self.turned % 2 or not self.turned:
                words = f"turns {self.turned} features of a head; they are pairs"
                return "rope_fraction", words

    def _wrong_scaling(self) -> str | None:
        scaling = self.rope_scaling
        if len(scaling) not in (0, 1, 4):
            return "must be (), (factor,) or (factor, low, high, original context)"
        if not all(0 < x < float("inf") for x in scaling):
            return "must be of positive and finite numbers"
        if len(scaling) == 4 and not scaling[1] < scaling[2]:
            return "must have low below high"

    @property
    def state_grows(self) -> bool:
        return self.window is None and self.causal

    def context_flops(self, length: int) -> int:
        H, _, K = self.sizes
        seen = attention.pairs(length, self.window, self.causal)
        return (seen - length) * 4 * H * K
