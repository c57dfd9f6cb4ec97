"""The generalised delta rule in chunks against its definition."""

import functools

import jax
import numpy as np
import pytest

from lm import sequence
from lm.ops import dplr, naive
from tests.ops_reference import agree, isolated, normal, rows

B, H, K, V, CHUNK = 3, 2, 5, 4, 4
STRONGEST = -np.exp(-0.5)  # log-decay of RWKV-7


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tokens(batch: int, length: int, keys: int = K, width: int = V):
    """r, w, k, v, a and b as RWKV-7 makes them, with w over all of its range."""
    r, k, w, key, rate = (normal(batch, length, H, keys, seed=i) for i in range(5))
    w = STRONGEST / (1 + np.exp(-3 * w))
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    v = normal(batch, length, H, width, seed=5)
    return r, w, k, v, -key, key / (1 + np.exp(-rate))


@pytest.mark.parametrize("length", [1, 2, 13, 32])
def test_it_is_its_recurrence(length):
    state = normal(B, H, K, V, seed=6)
    op = functools.partial(dplr.rule, chunk=CHUNK)
    agree(op, naive.dplr, (*tokens(B, length), state), rows(length))


@pytest.mark.parametrize("length", [13, 16])
def test_a_document_is_bitwise_free_of_the_one_before(length):
    op = functools.partial(dplr.rule, chunk=8)
    r, w, *rest = tokens(B, length)
    arguments = (r, w / 30, *rest, normal(B, H, K, V))
    isolated(op, arguments, 6)


@pytest.mark.parametrize("chunk", [16, 64, 256])
def test_the_strongest_decay_in_float32(chunk):
    """Factors of a pair are e^39 in the longest chunk; e^155 would be no number."""
    seq, state = sequence.full(1, 300, start=1), normal(1, H, 16, 8, seed=6)
    r, w, *rest = tokens(1, 300, 16, 8)
    arguments = (r, np.full_like(w, STRONGEST), *rest, state)
    single = [x.astype(np.float32) for x in arguments]
    weights = normal(*r.shape[:3], 8, seed=9)

    def all_of(op, arguments):
        loss = lambda *a: (op(*a, seq)[0] * weights.astype(a[0].dtype)).sum()
        grads = jax.jit(jax.grad(loss, range(7)))(*arguments)
        return jax.jit(lambda *a: op(*a, seq))(*arguments), grads

    def check(got, want):
        assert got.dtype == np.float32
        limit = 1e-5 * np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=limit)

    op = functools.partial(dplr.rule, chunk=chunk)
    jax.tree.map(check, all_of(op, single), all_of(naive.dplr, arguments))
