"""Matrices held as int8 with a float scale for each output: W = scale * values.

Symmetric and rounded to the nearest, |values| <= 127: an entry is off by at most half a
step of its scale, which is the largest |entry| of its output / 127 (the absmax scheme
of arXiv 2208.07339, section 2.1). Activations keep their dtype.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix [D, F] with scale [1, F], or a table [V, D] with scale [V, 1].

    It stands where a layer has x @ W.astype(dtype), or table.astype(dtype)[ids].
    """

    values: Any  # first, and shaped as the parameter was: shapes are compared
    scale: Any

    def astype(self, dtype) -> "Int8":
        return dataclasses.replace(self, scale=self.scale.astype(dtype))

    def __rmatmul__(self, x):
        """x W, [..., F], of a matrix."""
        return (_product(x, self.values) * self.scale[0]).astype(x.dtype)

    def __getitem__(self, ids):
        """Rows of a table."""
        return self.values[ids].astype(self.scale.dtype) * self.scale[ids]

    def logits(self, x):
        """x W^T, [..., V] in float32 or wider, of a table."""
        return _product(x, self.values.T) * self.scale[:, 0]


def _product(x, values_DxF):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, values_DxF.astype(x.dtype), preferred_element_type=wide)


def quantize(w, axis: int) -> Int8:
    """Int8 of a matrix (axis 0) or of a table (1); products contract over `axis`."""
    largest = jnp.max(jnp.abs(w), axis, keepdims=True)
    scale = jnp.where(largest == 0, 1, largest) / 127
    return Int8(jnp.round(w / scale).astype(jnp.int8), scale)
