"""Each op against a plain float64 loop of its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import sequence
from lm.ops import attention, conv, diagonal
from tests.subjects import going_on, values

B, T, D = 2, 11, 5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("form", [diagonal.sequential, diagonal.associative])
@pytest.mark.parametrize("length", [1, T])
def test_diagonal_recurrence_and_its_adjoint(form, length):
    a, x, g = (values(B, length, D, seed=i, dtype=np.float64) for i in range(3))
    a, a[:, length // 2] = np.abs(a), 0
    h = h0 = values(B, D, seed=3, dtype=np.float64)
    states = []
    for t in range(length):
        h = a[:, t] * h + x[:, t]
        states.append(h)
    before = np.stack([h0, *states[:-1]], 1)
    da, dx, dh = np.zeros_like(a), np.zeros_like(x), np.zeros_like(h0)
    for t in reversed(range(length)):
        dx[:, t] = g[:, t] + dh
        da[:, t] = dx[:, t] * before[:, t]
        dh = a[:, t] * dx[:, t]

    @jax.jit
    def run(a, x, h, g):
        y, pull = jax.vjp(form, a, x, h)
        return y, pull(g)

    y, grads = run(a, x, h0, g)
    np.testing.assert_allclose(y, np.stack(states, 1), rtol=0, atol=1e-12)
    for got, want in zip(grads, (da, dx, dh), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


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


def test_rope_turns_each_pair_by_its_own_angle():
    K, theta = 6, 100.0
    x = values(B, T, 2, K, dtype=np.float64)
    positions = np.random.default_rng(0).integers(0, 5000, (B, T), np.int32)
    got = jax.jit(attention.rope, static_argnums=2)(x, positions, theta)
    pairs = x[..., : K // 2] + 1j * x[..., K // 2 :]
    for i in range(K // 2):
        angle = positions[..., None] * theta ** (-2 * i / K)
        turned = pairs[..., i] * np.exp(1j * angle)
        np.testing.assert_allclose(got[..., i], turned.real, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got[..., i + K // 2], turned.imag, rtol=0, atol=1e-9)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
def test_pairs_are_the_pairs_that_are_visible(window):
    for length in (1, 2, 5, 11):
        brute = sum(
            0 <= t - s < (window or length)
            for t in range(length)
            for s in range(length)
        )
        assert attention.pairs(length, window) == brute
        cache = attention.empty_cache(1, 0, 1, 2, jnp.float32)
        seq = sequence.full(1, length)
        distance = np.subtract.outer(np.arange(length), np.arange(length))
        want = (distance >= 0) & (distance < (window or length))
        mask = attention.visible(cache, seq, window)[0]
        np.testing.assert_array_equal(mask, want)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (3, 1)])
def test_attend_is_a_masked_softmax_for_each_query(heads, kv_heads):
    S, K = 9, 4
    q = values(B, T, heads, K, dtype=np.float64)
    k, v = (values(B, S, kv_heads, K, seed=i, dtype=np.float64) for i in (1, 2))
    mask = np.random.default_rng(0).random((B, T, S)) < 0.4
    mask[..., 0] = True
    got = jax.jit(attention.attend)(q, k, v, mask)
    for b, t, h in np.ndindex(B, T, heads):
        g, seen = h // (heads // kv_heads), mask[b, t]
        logits = k[b, seen, g] @ q[b, t, h] / np.sqrt(K)
        weights = np.exp(logits - logits.max())
        want = weights @ v[b, seen, g] / weights.sum()
        np.testing.assert_allclose(got[b, t, h], want, rtol=0, atol=1e-12)


def test_the_softmax_is_in_float32_for_bfloat16():
    q, k, v = (values(1, 1, 1, 2).astype(jnp.bfloat16) for _ in range(3))
    seen = []
    drop = lambda weights: seen.append(weights.dtype) or weights
    y = attention.attend(q, k, v, jnp.ones((1, 1, 1), bool), drop)
    assert (y.dtype, seen) == (jnp.bfloat16, [jnp.float32])


def test_the_mask_of_a_full_ring_is_the_last_window():
    window, slots = 4, 3
    cache = attention.empty_cache(1, slots, 1, 2, jnp.float32)
    for t in range(10):
        seq = sequence.full(1, 1, start=t)
        seq = seq._replace(reset=np.array([[t in (0, 6)]]))
        mask = np.asarray(attention.visible(cache, seq, window))[0, 0]
        index = np.append(np.asarray(cache["index"])[0], t)
        first = max(t - window + 1, 6 if t >= 6 else 0)
        assert sorted(index[mask]) == list(range(first, t + 1))
        cache = attention.write(cache, *2 * [jnp.zeros((1, 1, 1, 2), jnp.float32)], seq)
