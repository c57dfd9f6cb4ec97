"""Matrices held as int8 with a float scale for each output: W = scale * values.

Symmetric and rounded to the nearest, |values| <= 127: an entry is off by at most half a
step of its scale, which is the largest |entry| of its output / 127 (the absmax scheme
of arXiv 2208.07339, section 2.1). Activations keep their dtype.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

TERMS = 8  # products that one loop adds up before it stores; XLA fuses no more than 15
BLOCK = 3072  # outputs of a table's product that are taken at once


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "scale", "columns"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix [D, F] with scale [1, F], or a table [V, D] with scale [V, 1].

    It stands where a layer has x @ W.astype(dtype), or table.astype(dtype)[ids].
    columns: of a table, its transpose in blocks [D, BLOCK], for the logits: rows are
    looked up in one layout and multiplied in the other.
    """

    values: Any  # first, and shaped as the parameter was: flax compares them
    scale: Any
    columns: tuple = ()

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
        parts = [_product(x, values_DxF) for values_DxF in self.columns]
        return jnp.concatenate(parts, -1) * self.scale[:, 0]


def quantize(w, axis: int) -> Int8:
    """Int8 of a matrix (axis 0) or of a table (1); products contract over `axis`."""
    largest = jnp.max(jnp.abs(w), axis, keepdims=True)
    scale = jnp.where(largest == 0, 1, largest) / 127
    values = jnp.round(w / scale).astype(jnp.int8)
    blocks = range(0, len(w), BLOCK) if axis == 1 else ()
    return Int8(values, scale, tuple(values[i : i + BLOCK].T for i in blocks))


def _product(x, values_DxF):
    return FORMS.get(jax.default_backend(), _converted)(x, values_DxF)


def _converted(x, values_DxF):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, values_DxF.astype(x.dtype), preferred_element_type=wide)


def _summed(x, values_DxF):
    """XLA's CPU products convert the whole matrix before they read it.

    For a single row the product is written as sums of TERMS terms, each of which one
    loop converts, multiplies and adds without a store in between.
    """
    D, F = values_DxF.shape
    if x.size != D or D % TERMS:
        return _converted(x, values_DxF)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    # Products with ones, which XLA does not fuse: around them the loops come apart.
    x_NxK = x.astype(wide).reshape(-1, TERMS) @ jnp.eye(TERMS, dtype=wide)
    values_NxKxF = values_DxF.reshape(-1, TERMS, F)
    parts_NxF = sum(
        x_NxK[:, k, None] * values_NxKxF[:, k].astype(wide) for k in range(TERMS)
    )
    y_F = jnp.ones(len(parts_NxF), wide) @ parts_NxF
    return y_F.reshape(*x.shape[:-1], F)


# x W by backend; others convert while they load.
FORMS = {"cpu": _summed}
