"""DeltaNet: S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t.

Yang et al. 2024, arXiv 2406.06484, section 2.2; beta up to 2, and with it
eigenvalues down to -1, as in arXiv 2411.12537.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import layers
from lm.mixers.base import Mixer
from lm.ops import delta
from lm.sequence import Sequence


class DeltaNet(Mixer):
    """heads: H; key_expand, value_expand: width of all keys, or values, over D.

    conv_width: tokens of the convolution after the projections of q, k and v.
    eigenvalues: of a step, "positive" (beta in [0, 1]) or "signed" (beta in [0, 2]).
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int = 4
    key_expand: float = 1.0
    value_expand: float = 1.0
    conv_width: int = 4
    eigenvalues: str = "positive"
    chunk: int | None = None

    choices = {"eigenvalues": ("positive", "signed")}
    householders: ClassVar[int] = 1  # J, delta steps of a token

    parameter_kinds = ((r"/beta/kernel$", "vector"),)  # one number a head

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(J, H, K, V)."""
        size = lambda expand: round(expand * self.width / self.heads)
        sizes = size(self.key_expand), size(self.value_expand)
        return self.householders, self.heads, *sizes

    @property
    def conv_features(self) -> int:
        J, H, K, V = self.sizes
        return H * (K + J * K + J * V)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, _ = x_BxTxD.shape
        J, H, K, V = self.sizes
        wide = layers.accumulator(self.dtype)
        qkv_BxTxF = layers.Dense(self.conv_features, name="qkv")(x_BxTxD, seq)
        qkv_BxTxF, buffer_BxWxF = layers.short_conv(
            self, "conv", qkv_BxTxF, self.conv_width, state["conv"], seq
        )
        parts = jnp.split(jax.nn.silu(qkv_BxTxF), [H * K, (1 + J) * H * K], -1)
        q_BxTxHxK = layers.l2_normalize(parts[0].reshape(B, T, H, K))
        k_BxTxJxHxK = layers.l2_normalize(parts[1].reshape(B, T, J, H, K))
        v_BxTxJxHxV = parts[2].reshape(B, T, J, H, V)
        beta_BxTxF = layers.Dense(J * H, name="beta")(x_BxTxD, seq)
        beta_BxTxJxH = jax.nn.sigmoid(beta_BxTxF.astype(wide)).reshape(B, T, J, H)
        if self.eigenvalues == "signed":
            beta_BxTxJxH *= 2
        o_BxTxHxV, state_BxHxKxV = delta.product(
            q_BxTxHxK * K**-0.5,
            k_BxTxJxHxK,
            v_BxTxJxHxV,
            beta_BxTxJxH,
            self.log_decay(x_BxTxD, seq),
            state["S"],
            seq,
            self.chunk,
        )
        o_BxTxHxV = layers.RMSNorm(1e-5, name="norm")(o_BxTxHxV, seq)
        o_BxTxF = self.gated(o_BxTxHxV.reshape(B, T, H * V), x_BxTxD, seq)
        o_BxTxF = o_BxTxF.astype(self.dtype)
        y_BxTxD = layers.Dense(self.width, name="output")(o_BxTxF, seq)
        return y_BxTxD, {"S": state_BxHxKxV, "conv": buffer_BxWxF}, carry

    def log_decay(self, x_BxTxD, seq: Sequence):
        """g_BxTxH in float32 or wider, or None."""
        return None

    def gated(self, o_BxTxF, x_BxTxD, seq: Sequence):
        """What the normalised output is multiplied by, if anything."""
        return o_BxTxF

    def initial_state(self, batch: int, capacity: int):
        _, H, K, V = self.sizes
        shape = (batch, self.conv_width - 1, self.conv_features)
        return {
            "S": jnp.zeros((batch, H, K, V), layers.accumulator(self.dtype)),
            "conv": jnp.zeros(shape, self.dtype),
        }

    def contradiction(self) -> tuple[str, str] | None:
        for field in ("key_expand", "value_expand"):
            size = getattr(self, field) * self.width / self.heads
            if size < 0.5 or abs(size - round(size)) > 1e-6:
                heads = f"{self.heads} heads of {size:g} of model.width={self.width}"
                return field, f"makes {heads}, which must be whole"

    def context_flops(self, length: int) -> int:
        return length * 2 * self.conv_width * self.conv_features
