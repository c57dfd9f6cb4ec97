"""Parameters drawn by (seed, layer, role), and the layers that every model shares."""

import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def accumulator(dtype) -> jnp.dtype:
    """dtype of states, statistics and sums of activations of `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def fold(key, layer, role: str):
    """The key (or keys) of one role in one layer; independent of the pattern."""
    role_hash = zlib.crc32(role.encode())
    one = lambda k: jax.random.fold_in(jax.random.fold_in(k, role_hash), layer)
    return one(key) if key.ndim == 0 else jax.vmap(one)(key)


def parameter(module: nn.Module, name: str, init, shape, seq: Sequence):
    """A float32 parameter of `module`, drawn by (seed, absolute layer, role).

    The role is the module's path below its block, so that neither the length of the
    pattern nor the place of a block in it moves a draw (linen's own keys follow paths).
    """
    path = module.path
    inner = max((i + 1 for i, part in enumerate(path) if "block_" in part), default=0)
    role = "/".join((*path[inner:], name))

    def draw(key):
        if module.is_initializing():
            key = fold(seq.key, 0 if seq.layer is None else seq.layer, role)
        return init(key, shape, jnp.float32)

    return module.param(name, draw)


def truncated_normal(std: float, axis: int = -1):
    """Normal cut at 2 deviations; a shorter `axis` is a bitwise prefix of a longer."""

    def init(key, shape, dtype):
        leading = jnp.moveaxis(jnp.empty(shape), axis, 0).shape
        draw = jax.random.truncated_normal(key, -2, 2, leading, dtype)
        return jnp.moveaxis(draw, 0, axis) * (std / 0.87962566103423978)

    return init


def fan_in(key, shape, dtype):
    """Truncated normal with variance 1 / (rows of the matrix)."""
    return truncated_normal(shape[-2] ** -0.5)(key, shape, dtype)


def orthogonal_gates(key, shape, dtype):
    """One orthogonal matrix a gate, side by side: [H, gates * H]."""
    H, gates = shape[0], shape[1] // shape[0]
    draw = nn.initializers.orthogonal()
    keys = [jax.random.fold_in(key, gate) for gate in range(gates)]
    return jnp.concatenate([draw(k, (H, H), dtype) for k in keys], 1)


def zeros(key, shape, dtype):
    return jnp.zeros(shape, dtype)


def ones(key, shape, dtype):
    return jnp.ones(shape, dtype)


class Dense(nn.Module):
    """y = x W (+ b); the kernel is [in, out]."""

    features: int
    bias: bool = False
    init: Callable = fan_in

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        shape = (x_BxTxD.shape[-1], self.features)
        kernel_DxF = parameter(self, "kernel", self.init, shape, seq)
        y_BxTxF = x_BxTxD @ kernel_DxF.astype(x_BxTxD.dtype)
        if self.bias:
            bias_F = parameter(self, "bias", zeros, (self.features,), seq)
            y_BxTxF += bias_F.astype(y_BxTxF.dtype)
        return y_BxTxF


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        x32_BxTxD = x_BxTxD.astype(accumulator(x_BxTxD.dtype))
        power_BxTx1 = jnp.mean(jnp.square(x32_BxTxD), -1, keepdims=True)
        scale_D = parameter(self, "scale", ones, (x_BxTxD.shape[-1],), seq)
        y_BxTxD = x32_BxTxD * jax.lax.rsqrt(power_BxTx1 + self.eps) * scale_D
        return y_BxTxD.astype(x_BxTxD.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias (Ba et al., arXiv 1607.06450)."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        x32_BxTxD = x_BxTxD.astype(accumulator(x_BxTxD.dtype))
        x32_BxTxD -= jnp.mean(x32_BxTxD, -1, keepdims=True)
        power_BxTx1 = jnp.mean(jnp.square(x32_BxTxD), -1, keepdims=True)
        scale_D = parameter(self, "scale", ones, (x_BxTxD.shape[-1],), seq)
        bias_D = parameter(self, "bias", zeros, (x_BxTxD.shape[-1],), seq)
        y_BxTxD = x32_BxTxD * jax.lax.rsqrt(power_BxTx1 + self.eps) * scale_D + bias_D
        return y_BxTxD.astype(x_BxTxD.dtype)


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202) or the GELU MLP of GPT-2.

    Every kernel's scale follows from D alone, so a narrower MLP is bitwise a prefix of
    a wider one; `wo` is scaled as for the customary F = 4 D.
    """

    kind: str
    width: int
    bias: bool = False

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence):
        D = x_BxTxD.shape[-1]
        h_BxTxF = Dense(self.width, self.bias, name="wi")(x_BxTxD, seq)
        if self.kind == "swiglu":
            gate_BxTxF = Dense(self.width, self.bias, name="wg")(x_BxTxD, seq)
            h_BxTxF = jax.nn.silu(gate_BxTxF) * h_BxTxF
        else:
            h_BxTxF = jax.nn.gelu(h_BxTxF, approximate=True)
        wo_init = truncated_normal((4 * D) ** -0.5, axis=0)
        return Dense(D, self.bias, wo_init, name="wo")(h_BxTxF, seq)


MLPS = ("swiglu", "gelu", "none")


def dropout(x: Any, rate: float, seq: Sequence, role: str):
    """Inverted dropout with one key a row; identity without keys or with rate 0.

    Keys are per row, so neither micro-batches nor devices move a mask; a single key,
    as at initialisation, draws parameters only.
    """
    if rate == 0 or seq.key is None or seq.key.ndim == 0:
        return x
    keys_B = fold(seq.key, 0 if seq.layer is None else seq.layer, role)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1 - rate), 0)
