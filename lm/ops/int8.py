"""Matrices held as int8 with a float scale for each output: W = scale * values.

Symmetric and rounded to the nearest, |values| <= 127: an entry is off by at most half a
step of its scale, which is the largest |entry| of its output / 127 (the absmax scheme
of arXiv 2208.07339, section 2.1). Activations keep their precision.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

# int8 digits that an activation is taken in, by backend: products are then of integers,
# where XLA would first write out a widened matrix. Without an entry: as floats.
DIGITS = {"cpu": 2}
COLUMNS = 64
BASE = 254  # of the digits: what half a step of one is of 127 steps of the next


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix, or a table whose rows are the outputs.

    It stands where a layer has x @ W.astype(dtype), or table.astype(dtype)[ids].

    Attributes:
      values: [D, F'] int8, contracted over D; of a table [V, D] that is its transpose.
        F' is F made a multiple of COLUMNS by columns of zeros.
      scale: [F], float.
    """

    values: Any
    scale: Any

    def astype(self, dtype) -> "Int8":
        return dataclasses.replace(self, scale=self.scale.astype(dtype))

    def __rmatmul__(self, x):
        """x W, [..., F]."""
        return self.logits(x).astype(x.dtype)

    def __getitem__(self, ids):
        """Rows of a table, [..., D]."""
        rows = jnp.moveaxis(self.values[:, ids], 0, -1)
        return rows.astype(self.scale.dtype) * self.scale[ids][..., None]

    def logits(self, x):
        """x W in float32 or wider: the logits of a table."""
        digits = DIGITS.get(jax.default_backend())
        wide = jnp.promote_types(x.dtype, jnp.float32)
        if digits:
            rows_NxD = x.reshape(-1, x.shape[-1]).astype(wide)
            y = _by_digits(rows_NxD, self.values, digits).reshape(*x.shape[:-1], -1)
        else:
            values = self.values.astype(x.dtype)
            y = jnp.matmul(x, values, preferred_element_type=wide)
        return y[..., : self.scale.size] * self.scale


def _by_digits(x_NxD, values_DxF, digits: int):
    """x W of integers: x to within its row's largest |x| / 254^digits.

    XLA:CPU has a fast product of int8 for at least two rows, whole vectors of outputs,
    and, measured, for a batch of two: W's upper and lower half.
    """
    largest_Nx1 = jnp.max(jnp.abs(x_NxD), -1, keepdims=True)
    step_Nx1 = jnp.where(largest_Nx1 == 0, 1, largest_Nx1) / 127
    rest_NxD, parts = x_NxD / step_Nx1, []
    for _ in range(digits):
        digit_NxD = jnp.round(rest_NxD)
        parts.append(digit_NxD.astype(jnp.int8))
        rest_NxD = BASE * (rest_NxD - digit_NxD)
    D, F = values_DxF.shape
    half = 2 - D % 2
    y_HxPxF = jnp.einsum(
        "phk,hkf->hpf",
        jnp.concatenate(parts).reshape(-1, half, D // half),
        values_DxF.reshape(half, D // half, F),
        preferred_element_type=jnp.int32,
    )
    y_PxNxF = y_HxPxF.sum(0).astype(x_NxD.dtype).reshape(digits, -1, F)
    return step_Nx1 * sum(y_PxNxF[i] / BASE**i for i in range(digits))


def quantize(w, axis: int) -> Int8:
    """Int8 of a matrix (axis 0) or of a table (1); products contract over `axis`."""
    largest = jnp.max(jnp.abs(w), axis, keepdims=True)
    scale = jnp.where(largest == 0, 1, largest) / 127
    values_DxF = jnp.moveaxis(jnp.round(w / scale).astype(jnp.int8), axis, 0)
    pad = [(0, 0), (0, -values_DxF.shape[1] % COLUMNS)]
    return Int8(jnp.pad(values_DxF, pad), jnp.squeeze(scale, axis))
