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


IDS = [[1] * T, [0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 0], [1] * 3 + [0] * 8, [0] * T]


@pytest.mark.parametrize("taps", [0, 1, 3])
def test_short_convolution(taps):
    seq, start = going_on(IDS, 2), values(4, taps, D, seed=2, dtype=np.float64)
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


@pytest.mark.parametrize("taps", [0, 1, 3, T + 2])
def test_gradients_of_a_short_convolution_are_its_adjoint(taps):
    seq = going_on(IDS, 2)
    shapes = ((4, T, D), (taps + 1, D), (4, taps, D))
    draw = lambda seed, shapes: [
        values(*shape, seed=seed + i, dtype=np.float64)
        for i, shape in enumerate(shapes)
    ]
    inputs, others, g = draw(0, shapes), draw(3, shapes), draw(6, shapes[::2])
    run = lambda x, kernel, start: conv.short(x, kernel, start, seq)
    dot = lambda xs, ys: sum(np.vdot(x, y) for x, y in zip(xs, ys, strict=True))
    dx, dkernel, dstart = jax.vjp(run, *inputs)[1](tuple(g))
    # y is linear in (x, start), and in the kernel; the new buffer in (x, start).
    x, kernel, start = others
    got = dot((x, start), (dx, dstart))
    np.testing.assert_allclose(got, dot(run(x, inputs[1], start), g), rtol=1e-12)
    y = run(inputs[0], kernel, inputs[2])[0]
    np.testing.assert_allclose(np.vdot(kernel, dkernel), np.vdot(y, g[0]), rtol=1e-12)
