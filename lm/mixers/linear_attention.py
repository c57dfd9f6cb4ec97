"""Linear attention: y_t = phi(q_t)^T sum_s phi(k_s) v_s^T / phi(q_t)^T sum_s phi(k_s).

Katharopoulos et al. 2020, arXiv 2006.16236, equation 9, with s <= t. Feature maps phi:
elu(x) + 1 of that paper; the Taylor series of exp, Based (Arora et al. 2024, arXiv
2402.18668, section 4.1); a learned softmax, Hedgehog (Zhang et al. 2024, arXiv
2402.04347, section 4.2). Without the divisor: Qin et al. 2022, arXiv 2210.10340. With
rotary positions: Su et al. 2021, arXiv 2104.09864, equation 19.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import attention, linear
from lm.sequence import Sequence

EPS = 1e-6  # the least divisor


def elu(x):
    """elu(x) + 1 without the rounding of that sum where it is close to 0."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def taylor(x):
    """[1, x / d^(1/4), x (x) x / sqrt(2 d)]: products are 1 + s + s^2 / 2, s of q k."""
    d = x.shape[-1]
    square = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], d * d)
    parts = [jnp.ones_like(x[..., :1]), x / d**0.25, square / (2 * d) ** 0.5]
    return jnp.concatenate(parts, -1)


def hedgehog(x):
    """softmax of [x, -x]."""
    return jax.nn.softmax(jnp.concatenate([x, -x], -1), -1)


# Name -> (the map, its features for a width of d).
FEATURES = {
    "elu": (elu, lambda d: d),
    "relu": (jax.nn.relu, lambda d: d),
    "taylor": (taylor, lambda d: 1 + d + d * d),
    "hedgehog": (hedgehog, lambda d: 2 * d),
}


def ratio(x, y):
    """x / y with a gradient that never squares y, which may be as large as 1e38."""
    scale = 1 / jax.lax.stop_gradient(y)
    return (x * scale) / (y * scale)


def identity(key, shape, dtype):
    """[H, K, K]: the identity for each head."""
    return jnp.broadcast_to(jnp.eye(*shape[-2:], dtype=dtype), shape)


class LinearAttention(Mixer):
    """heads: H; feature_map: "elu", "relu", "taylor" or "hedgehog".

    feature_width: d, of a head's query and key; by default width / heads, for "taylor"
    at most 16.
    norm: "sum" divides by the sum of the weights, "rms" normalises heads instead.
    position: "rope" turns the features above the divisor, or "none".
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int = 4
    feature_map: str = "elu"
    feature_width: int | None = None
    norm: str = "sum"
    position: str = "none"
    chunk: int | None = None

    choices = {
        "feature_map": tuple(FEATURES),
        "norm": ("sum", "rms"),
        "position": ("none", "rope"),
    }

    @property
    def key_width(self) -> int:
        """d, before the map."""
        most = 16 if self.feature_map == "taylor" else self.width
        return self.feature_width or min(most, self.width // self.heads)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        B, T, D = x_BxTxD.shape
        init = inits.uniform(D**-0.5)

        def project(name: str, size: int):
            y_BxTxF = layers.Dense(self.heads * size, init=init, name=name)(
                x_BxTxD, seq
            )
            return y_BxTxF.reshape(B, T, self.heads, size)

        q_BxTxHxK = self._features("query", project("query", self.key_width), seq)
        k_BxTxHxK = self._features("key", project("key", self.key_width), seq)
        v_BxTxHxV = project("value", D // self.heads)
        if self.norm == "sum":  # a value of ones sums the weights
            ones_BxTxHx1 = jnp.ones_like(v_BxTxHxV[..., :1])
            v_BxTxHxV = jnp.concatenate([v_BxTxHxV, ones_BxTxHx1], -1)
        o_BxTxHxV, state = self._attend(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, state, seq)
        if self.norm == "sum":
            sum_BxTxHx1 = jnp.maximum(o_BxTxHxV[..., -1:], EPS)
            o_BxTxHxV = ratio(o_BxTxHxV[..., :-1], sum_BxTxHx1)
        else:
            o_BxTxHxV = layers.RMSNorm(name="norm")(o_BxTxHxV, seq)
        o_BxTxD = o_BxTxHxV.astype(x_BxTxD.dtype).reshape(B, T, D)
        y_BxTxD = layers.Dense(D, init=init, name="output")(o_BxTxD, seq)
        return y_BxTxD, state, carry

    def _attend(self, q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, state, seq: Sequence):
        """(o, state) of values, of which a last one of ones sums the weights."""

        def attend(q, k, values: slice):
            return linear.attention(
                q, k, v_BxTxHxV[..., values], None, state[..., values], seq, self.chunk
            )

        if self.position == "none":
            return attend(q_BxTxHxK, k_BxTxHxK, slice(None))
        turn = lambda x: attention.rope(x, seq.positions, 10_000.0)
        V = self.width // self.heads
        o, new = attend(turn(q_BxTxHxK), turn(k_BxTxHxK), slice(V))
        if self.norm == "rms":
            return o, new
        # What divides is not turned: a sum of turned weights may be 0.
        pairs = zip((o, new), attend(q_BxTxHxK, k_BxTxHxK, slice(V, None)), strict=True)
        return tuple(jnp.concatenate(pair, -1) for pair in pairs)

    def _features(self, name: str, x_BxTxHxK, seq: Sequence):
        """phi(x), in float32 or wider; Hedgehog's of a learned affine map of a head."""
        if self.feature_map == "hedgehog":
            H, K = x_BxTxHxK.shape[2:]
            kernel_HxKxK = parameter(
                self, f"{name}_map_kernel", identity, (H, K, K), seq
            )
            bias_HxK = parameter(self, f"{name}_map_bias", inits.zeros, (H, K), seq)
            kernel_HxKxK = kernel_HxKxK.astype(x_BxTxHxK.dtype)
            x_BxTxHxK = jnp.einsum("bthk,hkf->bthf", x_BxTxHxK, kernel_HxKxK)
            x_BxTxHxK += bias_HxK.astype(x_BxTxHxK.dtype)
        features, _ = FEATURES[self.feature_map]
        return features(x_BxTxHxK.astype(layers.accumulator(self.dtype)))

    def initial_state(self, batch: int, capacity: int):
        _, size = FEATURES[self.feature_map]
        V = self.width // self.heads + (self.norm == "sum")
        shape = (batch, self.heads, size(self.key_width), V)
        return jnp.zeros(shape, layers.accumulator(self.dtype))

    def contradiction(self) -> tuple[str, str] | None:
        features = FEATURES[self.feature_map][1](self.key_width)
        if self.position == "rope" and features % 2:
            return "position", f"turns pairs, and a head has {features} features"
