"""RWKV-7: S_t = diag(w_t) S_{t-1} - (a_t kappa_t) (S_{t-1}^T kappa_t)^T + k_t v_t^T,
o_t = S_t^T r_t.

The time mix of Peng et al. 2025, arXiv 2503.14456, section 4; |kappa| = 1. All inputs
are mixed with the token before, and values with those of the first layer.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import conv, dplr
from lm.sequence import Sequence


def orthogonal(gain: float):
    """Orthonormal rows or columns, times `gain`, times sqrt(rows / columns) if > 1."""
    scale = lambda shape: gain * max(1, shape[0] / shape[1]) ** 0.5
    draw = nn.initializers.orthogonal
    return lambda key, shape, dtype: draw(scale(shape))(key, shape, dtype)


class RWKV7(Mixer):
    """heads: H, by default one for every `head_width` channels, and one at least.
    decay_rank, rate_rank, value_rank, gate_rank: of the low-rank maps to w, a, the
    share of the first layer's values and the gate; by default as the official code has
    them for the width, but half the width at most.
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int | None = None
    head_width: int = 64
    decay_rank: int | None = None
    rate_rank: int | None = None
    value_rank: int | None = None
    gate_rank: int | None = None
    chunk: int | None = None

    parameter_groups = ((r"decay_lora_bias$", "fast"), (r"lora_(up|down)$", "no_decay"))
    parameter_kinds = ((r"lora_(up|down)$", "matrix"),)

    @property
    def sizes(self) -> tuple[int, int]:
        """(H, K)."""
        heads = self.heads or max(1, self.width // self.head_width)
        return heads, self.width // heads

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, D = x_BxTxD.shape
        vector = lambda name, shape=(D,): self._vector(name, shape, seq)
        lora = lambda *what: self._lora(seq, *what)
        dense = lambda name, x, init: layers.Dense(D, init=init, name=name)(x, seq)
        heads = lambda x_BxTxD: x_BxTxD.reshape(B, T, *self.sizes)
        before_BxTxD, buffer_BxD = conv.shift(x_BxTxD, state["shift"], seq)
        mix_6xD = vector("mix_scale", (6, D)).astype(x_BxTxD.dtype)
        mixed = [x_BxTxD + (before_BxTxD - x_BxTxD) * mix_D for mix_D in mix_6xD]
        x = dict(zip("rwkvag", mixed, strict=True))

        r_BxTxD = dense("receptance", x["r"], orthogonal(1.0))
        k_BxTxD = dense("key", x["k"], orthogonal(0.1))
        v_BxTxD = dense("value", x["v"], orthogonal(1.0))
        w_BxTxD = lora("decay", 2.5, x["w"], jnp.tanh) + vector("decay_lora_bias")
        w_BxTxD = -math.exp(-0.5) * jax.nn.sigmoid(w_BxTxD)
        a_BxTxD = jax.nn.sigmoid(lora("rate", 2.5, x["a"]) + vector("rate_lora_bias"))
        share_BxTxD = lora("value", 1.7, x["v"]) + vector("value_lora_bias")
        g_BxTxD = lora("gate", 5.0, x["g"], jax.nn.sigmoid)

        kappa_BxTxHxK = heads(k_BxTxD * vector("kappa_scale"))
        kappa_BxTxHxK = layers.l2_normalize(kappa_BxTxHxK, 1e-12)
        k_BxTxD = k_BxTxD * (1 + (a_BxTxD - 1) * vector("rate_scale"))
        first_BxTxD = jnp.where(carry["v_known"], carry["v_first"], v_BxTxD)
        v_BxTxD = v_BxTxD + (first_BxTxD - v_BxTxD) * jax.nn.sigmoid(share_BxTxD)

        r_BxTxHxK, k_BxTxHxK, v_BxTxHxK = map(heads, (r_BxTxD, k_BxTxD, v_BxTxD))
        w_BxTxHxK, b_BxTxHxK = heads(w_BxTxD), kappa_BxTxHxK * heads(a_BxTxD)
        tokens = (r_BxTxHxK, w_BxTxHxK, k_BxTxHxK, v_BxTxHxK, -kappa_BxTxHxK, b_BxTxHxK)
        o_BxTxHxK, state_BxHxKxK = dplr.rule(*tokens, state["S"], seq, self.chunk)
        o_BxTxHxK = layers.standardize(o_BxTxHxK, 1e-5 * self.sizes[1])
        o_BxTxHxK *= vector("norm_scale", self.sizes)
        o_BxTxHxK += parameter(self, "norm_bias", inits.zeros, self.sizes, seq)
        bonus_BxTxHxK = r_BxTxHxK * k_BxTxHxK * vector("bonus_scale", self.sizes)
        o_BxTxHxK += jnp.sum(bonus_BxTxHxK, -1, keepdims=True) * v_BxTxHxK
        o_BxTxD = (o_BxTxHxK.reshape(B, T, D) * g_BxTxD).astype(x_BxTxD.dtype)
        y_BxTxD = dense("output", o_BxTxD, inits.zeros)
        state = {"S": state_BxHxKxK, "shift": buffer_BxD}
        known = jnp.ones_like(carry["v_known"])
        return y_BxTxD, state, carry | {"v_first": first_BxTxD, "v_known": known}

    def _lora(self, seq: Sequence, name, factor, x_BxTxD, activation=lambda x: x):
        """activation(x W_1) W_2 in float32 or wider."""
        D, dtype = self.width, x_BxTxD.dtype
        rank = max(32, 32 * round(factor * D**0.5 / 32))
        R = getattr(self, f"{name}_rank") or max(1, min(rank, D // 2))
        down_DxR = parameter(self, f"{name}_lora_down", inits.zeros, (D, R), seq)
        up_RxD = parameter(self, f"{name}_lora_up", orthogonal(0.1), (R, D), seq)
        h_BxTxR = activation(x_BxTxD @ down_DxR.astype(dtype))
        return (h_BxTxR @ up_RxD.astype(dtype)).astype(layers.accumulator(dtype))

    def _vector(self, name: str, shape, seq: Sequence):
        """A parameter that starts at the official values of its layer."""
        D, K, layer = self.width, self.sizes[1], 0 if seq.layer is None else seq.layer

        def init(key, shape, dtype):
            rise_D = jnp.linspace(0, 1, D)
            zigzag_D = jnp.tile(jnp.linspace(-1, 1, K), D // K)
            zigzag_D *= jnp.abs(zigzag_D)
            bend = 1 + (layer / max(self.layers - 1, 1)) ** 0.3
            left = 1 - layer / self.layers  # 1 to almost 0
            powers_6x1 = left * jnp.array([[0.2], [0.9], [0.7], [0.7], [0.9], [0.2]])
            official = {
                "mix_scale": 1 - (jnp.arange(D) / D) ** powers_6x1,
                "decay_lora_bias": -5.5 + 6 * rise_D**bend + 2.5 * zigzag_D,
                "rate_lora_bias": -0.39 + 0.3 * zigzag_D + 0.4 * rise_D,
                "value_lora_bias": 0.93 - 0.4 * rise_D,
                "kappa_scale": 0.76 - 0.1 * rise_D,
                "rate_scale": 1.02,
                "bonus_scale": -0.04,
                "norm_scale": ((1 + layer) / self.layers) ** 0.7,
            }
            return jnp.broadcast_to(official[name], shape).astype(dtype)

        return parameter(self, name, init, shape, seq)

    def initial_state(self, batch: int, capacity: int):
        H, K = self.sizes
        state_BxHxKxK = jnp.zeros((batch, H, K, K), layers.accumulator(self.dtype))
        return {"S": state_BxHxKxK, "shift": jnp.zeros((batch, self.width), self.dtype)}

    def initial_carry(self, batch: int, length: int) -> dict:
        """The values of the first RWKV-7 layer, and whether it was there."""
        v_BxTxD = jnp.zeros((batch, length, self.width), self.dtype)
        return {"v_first": v_BxTxD, "v_known": jnp.zeros((), bool)}

    def contradiction(self) -> tuple[str, str] | None:
        H, _ = self.sizes
        if self.width % H:
            field = "heads" if self.heads else "head_width"
            return field, f"makes {H} heads, no divisor of model.width={self.width}"
        if self.chunk and self.chunk > dplr.LONGEST:
            return "chunk", f"must be at most {dplr.LONGEST}"

    def context_flops(self, length: int) -> int:
        return length * self.width * self.sizes[1]
