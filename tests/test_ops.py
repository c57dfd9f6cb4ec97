"""Each op against a plain float64 loop of its equation."""

import jax
import numpy as np
import pytest

from lm.ops import conv
from tests.subjects import going_on, values

B, T, D = 2, 11, 5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("taps", [0, 1, 3])
def test_short_convolution(taps):
    ids = [[1] * T, [0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 0], [1] * 3 + [0] * 8, [0] * T]
    seq, start = going_on(ids, 2), values(4, taps, D, seed=2, dtype=np.float64)
    start[:, : max(taps - 2, 0)] = 0  # document 1 has two tokens before this call
    x = values(4, T, D, dtype=np.float64)
    kernel = values(taps + 1, D, seed=1, dtype=np.float64)
    y, buffer = map(np.asarray, jax.jit(conv.short)(x, kernel, start, seq))
    for b in range(4):
        history = [*start[b]]
        document = [*start[b]]
        for t in np.flatnonzero(seq.valid[b]):
            document = [] if seq.reset[b, t] else document
            history.append(x[b, t])
            document.append(x[b, t])
            last = document[-taps - 1 :]
            want = sum(k * v for k, v in zip(kernel[::-1], last[::-1], strict=False))
            np.testing.assert_allclose(y[b, t], want, rtol=0, atol=1e-12)
        kept = np.array(history).reshape(-1, D)[len(history) - taps :]
        np.testing.assert_array_equal(buffer[b], kept)
