"""What this machine can do at most: measured, for a figure to stand beside."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

REPEATS = 7


def matmul_peak(repeats: int = REPEATS, dtype: str = "float32") -> float:
    """FLOP/s of a product of two square matrices of `dtype`, the best of several.

    At jax's default precision, which for float32 is a faster one on accelerators.
    """
    n = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.asarray(np.random.default_rng(0).standard_normal((n, n)), dtype)
    product = jax.jit(lambda x: x @ x)
    return 2 * n**3 / _best(lambda: jax.block_until_ready(product(x)), repeats)


def reading() -> tuple[Callable[[], object], int]:
    """(a program that reads a matrix too large for any cache, the bytes it reads)."""
    rows, width = 16384, 4096
    matrix = jnp.ones((rows, width), jnp.float32)
    product = jax.jit(lambda x, v: x @ v)
    vector = jnp.ones(width, jnp.float32)
    return lambda: jax.block_until_ready(product(matrix, vector)), matrix.nbytes


def read_bandwidth(repeats: int = REPEATS) -> float:
    """Bytes/s of `reading`, the best of several."""
    program, size = reading()
    return size / _best(program, repeats)


def _best(program: Callable, repeats: int) -> float:
    program()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        program()
        best = min(best, time.perf_counter() - start)
    return best
