"""The mLSTM in chunks against its equations, stabilised and not, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import sequence
from lm.ops import mlstm, naive
from tests.ops_reference import agree, isolated, normal, rows

B, H, K, V, CHUNK = 3, 2, 5, 4, 4
GATES = {"ordinary": (2, 3), "wide": (50, 50)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tokens(length: int, gates: str = "ordinary", batch: int = B):
    """q, k, v, i, f: pre-activations of gates have a deviation of 2 and 3, or of 50."""
    q, k, v = (normal(batch, length, H, n, seed=i) for i, n in enumerate((K, K, V)))
    i, f = (normal(batch, length, H, seed=3 + i) for i in range(2))
    return q, k, v, GATES[gates][0] * i, GATES[gates][1] * f


def state(m: float = 1.0):
    """(C, n, m) with m between 0 and a few `m`."""
    largest_BxH = m * np.abs(normal(B, H, seed=7))
    return normal(B, H, K, V, seed=5), normal(B, H, K, seed=6), largest_BxH


@pytest.mark.parametrize("gates", list(GATES))
@pytest.mark.parametrize("length", [1, 2, 13, 32])
def test_it_is_its_recurrence(length, gates):
    op = functools.partial(mlstm.cell, chunk=CHUNK)
    agree(op, naive.mlstm, (*tokens(length, gates), state()), rows(length))


@pytest.mark.parametrize("length", [1, 13])
def test_it_is_the_recurrence_without_a_stabiliser(length):
    """In outputs, in C and n themselves, and in all gradients: none is m's."""
    C, n, m = state()

    def unstabilised(*arguments):
        *tokens, C, n, seq = arguments

        def step(state, token):
            (C, n), (q, k, v, i, f) = state, token
            f, i = jax.nn.sigmoid(f)[..., None], jnp.exp(i)[..., None]
            C = f[..., None] * C + jnp.einsum("bhk,bhv->bhkv", i * k, v)
            n = f * n + i * k
            size = jnp.abs(jnp.einsum("bhk,bhk->bh", n, q))[..., None]
            h = jnp.einsum("bhkv,bhk->bhv", C, q) / jnp.maximum(size, 1)
            return (C, n), h

        zeros = jnp.zeros_like(C), jnp.zeros_like(n)
        return naive.fold(step, (C, n), zeros, tuple(tokens), seq)

    def stabilised(*arguments):
        *tokens, C, n, seq = arguments
        scale = jnp.exp(-m)[..., None]
        start = (scale[..., None] * C, scale * n, m)
        h, end = mlstm.cell(*tokens, start, seq, CHUNK, eps=0.0)
        scale = jnp.exp(end[2])[..., None]
        return h, (scale[..., None] * end[0], scale * end[1])

    agree(stabilised, unstabilised, (*tokens(length), C, n), rows(length))


@pytest.mark.parametrize("length", [1, 13])
def test_outputs_do_not_depend_on_the_first_stabiliser(length):
    def op(m, *arguments):
        *tokens, C, n, seq = arguments
        scale = np.exp(-m)
        start = (scale * C, scale * n, jnp.full((B, H), m))
        return mlstm.cell(*tokens, start, seq, CHUNK, eps=0.0)[0], ()

    C, n, _ = state()
    low, high = (functools.partial(op, m) for m in (0.0, 9.0))
    agree(low, high, (*tokens(length), C, n), rows(length))


@pytest.mark.parametrize("gates", list(GATES))
@pytest.mark.parametrize("length", [13, 16])
def test_a_document_is_bitwise_free_of_the_one_before(length, gates):
    def op(q, k, v, i, f, C, n, m, seq):
        return mlstm.cell(q, k, v, i, f, (C, n, m), seq, CHUNK)

    isolated(op, (*tokens(length, gates), *state()), 5)


@pytest.mark.parametrize("size", [50, 1000])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_saturated_gates_in_float32(signs, size):
    """One pair of signs a run, for all tokens, from an empty state."""
    T = 256
    q, k, v, *_ = tokens(T, batch=1)
    i, f = (np.full((1, T, H), sign * size) for sign in signs)
    start = np.zeros((1, H, K, V)), np.zeros((1, H, K)), np.zeros((1, H))
    single = lambda x: np.asarray(x, np.float32)
    arguments = jax.tree.map(single, (q, k, v, i, f, start))
    seq, weights = sequence.full(1, T), single(normal(1, T, H, V, seed=9))

    def total(arguments):
        h, end = mlstm.cell(*arguments, seq, 32)
        return jnp.sum(h * weights) + sum(map(jnp.sum, end)), (h, end)

    (_, outputs), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(arguments)
    for x in jax.tree.leaves((outputs, grads)):
        assert x.dtype == jnp.float32
        assert np.isfinite(x).all()
    want, _ = naive.mlstm(q, k, v, i, f, start, seq)
    limit = 1e-4 * np.abs(want).max() + 1e-30
    np.testing.assert_allclose(outputs[0], want, rtol=0, atol=limit)
