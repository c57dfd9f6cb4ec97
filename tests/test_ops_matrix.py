"""Chunked linear attention and delta rules against their definitions, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import sequence
from lm.ops import chunks, delta, linear, naive
from tests.ops_reference import agree, isolated, normal, rows
from tests.subjects import values

B, H, K, V, CHUNK = 3, 2, 5, 4, 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tokens(length: int):
    """q, k, v, and log-decays of every form, over a wide range."""
    q, k, v = (normal(B, length, H, n, seed=i) for i, n in enumerate((K, K, V)))
    decays = {
        "none": None,
        "fixed": -np.abs(normal(H, seed=3)),
        "scalar": -np.exp(3 * normal(B, length, H, seed=4)),
        "vector": -np.exp(3 * normal(B, length, H, K, seed=5)),
    }
    return q, k, v, decays


def decayed(op, g):
    """(op, the log-decay as its argument before the state, or as none)."""
    if g is None:
        return lambda *a: op(*a[:-2], None, *a[-2:]), ()
    return op, (g,)


FORMS = ("none", "fixed", "scalar", "vector")


@pytest.mark.parametrize("decay", FORMS)
@pytest.mark.parametrize("length", [1, 2, 13, 32])
def test_linear_attention_is_its_recurrence(decay, length):
    q, k, v, decays = tokens(length)
    state = normal(B, H, K, V, seed=6)
    chunked = functools.partial(linear.attention, chunk=CHUNK)
    fast, g = decayed(chunked, decays[decay])
    slow, _ = decayed(naive.linear, decays[decay])
    agree(fast, slow, (q, k, v, *g, state), rows(length))


@pytest.mark.parametrize("decay", ["fixed", "scalar"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 13])
def test_heads_of_a_group_share_its_queries_and_keys(length, groups, decay):
    heads = 6
    q, k = (normal(B, length, groups, K, seed=i) for i in range(2))
    v, state = normal(B, length, heads, V, seed=2), normal(B, heads, K, V, seed=6)
    shape = (heads,) if decay == "fixed" else (B, length, heads)
    g = -np.exp(3 * normal(*shape, seed=4))
    fast = functools.partial(linear.attention, chunk=CHUNK)
    agree(fast, naive.linear, (q, k, v, g, state), rows(length))


@pytest.mark.parametrize("decay", ["none", "scalar"])
@pytest.mark.parametrize("length", [1, 2, 13, 32])
def test_the_delta_rule_is_its_recurrence(decay, length):
    q, k, v, decays = tokens(length)
    beta, state = 2 / (1 + np.exp(-normal(B, length, H, seed=7))), normal(B, H, K, V)
    chunked = functools.partial(delta.rule, chunk=CHUNK)
    fast, g = decayed(chunked, decays[decay])
    slow, _ = decayed(naive.delta, decays[decay])
    agree(fast, slow, (q, unit(k), v, beta, *g, state), rows(length))


@pytest.mark.parametrize("decay", ["none", "scalar"])
@pytest.mark.parametrize("length", [1, 7])
def test_a_delta_product_is_delta_steps_in_a_row(decay, length):
    J, (q, _, _, decays) = 3, tokens(length)
    k, v = unit(normal(B, length, J, H, K)), normal(B, length, J, H, V, seed=1)
    beta = 2 / (1 + np.exp(-normal(B, length, J, H, seed=7)))
    g, state = decays[decay], normal(B, H, K, V, seed=6)

    def one_by_one(q, k, v, beta, *rest):
        """Each token's steps as tokens of a longer row, but for its reset."""
        *g, state, seq = rest

        def step(state, token):
            q, k, v, beta, g = token
            state = jnp.exp(g)[..., None, None] * state
            for j in range(J):
                error = v[:, j] - jnp.einsum("bhkv,bhk->bhv", state, k[:, j])
                state += jnp.einsum("bh,bhk,bhv->bhkv", beta[:, j], k[:, j], error)
            return state, jnp.einsum("bhkv,bhk->bhv", state, q)

        g = g[0] if g else jnp.zeros(q.shape[:3])
        zeros = jnp.zeros_like(state)
        return naive.fold(step, state, zeros, (q, k, v, beta, g), seq)

    chunked = functools.partial(delta.product, chunk=CHUNK)
    fast, g = decayed(chunked, g)
    agree(fast, one_by_one, (q, k, v, beta, *g, state), rows(length))


@pytest.mark.parametrize("length", [13, 16])
@pytest.mark.parametrize("decay", FORMS)
def test_a_document_is_bitwise_free_of_the_one_before(decay, length):
    q, k, v, decays = tokens(length)
    op, g = decayed(functools.partial(linear.attention, chunk=CHUNK), decays[decay])
    many = (q, k, v) if decay in ("none", "fixed") else (q, k, v, *g)
    isolated(op, (*many, *g[len(many) - 3 :], normal(B, H, K, V)), len(many))


@pytest.mark.parametrize("length", [13, 16])
def test_a_document_is_bitwise_free_in_the_delta_rule(length):
    q, k, v, decays = tokens(length)
    beta = 1 / (1 + np.exp(-normal(B, length, H, seed=7)))
    op = functools.partial(delta.rule, chunk=CHUNK)
    isolated(op, (q, unit(k), v, beta, decays["scalar"], normal(B, H, K, V)), 3)


@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_identical_tokens_with_beta_near_two(chunk):
    """4,096 equal keys, beta 1.99: an inverse by a power series is off by 1e9."""
    T, seq = 4096, sequence.full(1, 4096, start=1)
    repeat = lambda x: np.broadcast_to(x, (1, T, *x.shape)).copy()
    q, k, v = (
        repeat(normal(1, 8)),
        repeat(unit(normal(1, 8, seed=1))),
        repeat(normal(1, 8, seed=2)),
    )
    beta, state = np.full((1, T, 1), 1.99), normal(1, 1, 8, 8, seed=3)
    want, last = jax.jit(naive.delta)(q, k, v, beta, None, state, seq)
    single = [x.astype(np.float32) for x in (q, k, v, beta)]
    op = functools.partial(delta.rule, chunk=chunk)
    got, end = jax.jit(op)(*single, None, state.astype(np.float32), seq)
    assert got.dtype == end.dtype == jnp.float32
    limit = 1e-4 * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=limit)
    np.testing.assert_allclose(end, last, rtol=0, atol=1e-4 * np.abs(last).max())


@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_a_decay_over_a_range_of_500_in_a_chunk(chunk):
    """Some channels forget at once and others never: exp(+500) is no number."""
    T, seq = 4 * chunk, sequence.full(1, 4 * chunk, start=1)
    q, k, v = (normal(1, T, 1, n, seed=i) for i, n in enumerate((6, 6, 5)))
    g = np.zeros((1, T, 1, 6))
    g[..., 1] = -500 / chunk
    g[:, ::chunk, :, 2] = -500
    g[..., 3:] = -np.exp(2 * normal(1, T, 1, 3, seed=4))
    state = normal(1, 1, 6, 5, seed=5)
    single = lambda x: x.astype(np.float32)

    def gradients(op, cast):
        arguments = tuple(map(cast, (q, k, v, g, state)))
        weights = cast(normal(1, T, 1, 5, seed=6))
        loss = lambda *a: jnp.sum(op(*a, seq)[0] * weights)
        return op(*arguments, seq)[0], jax.jit(jax.grad(loss, (0, 1, 2, 3, 4)))(
            *arguments
        )

    op = functools.partial(linear.attention, chunk=chunk)
    got, want = gradients(op, single), gradients(naive.linear, lambda x: x)

    def check(got, want):
        assert got.dtype == jnp.float32
        limit = 1e-5 * np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=limit)

    jax.tree.map(check, got, want)


@pytest.mark.parametrize("C", [1, 2, 8, 64])
def test_inverse_of_a_unit_triangular_matrix_and_its_gradient(C):
    lower, g = np.tril(normal(2, 3, C, C), -1), normal(2, 3, C, C, seed=1)
    lower /= C**0.5
    plain = lambda x: jnp.linalg.inv(jnp.eye(C) + x)
    got, pull = jax.vjp(delta.inverse, lower)
    want, pull_plain = jax.vjp(plain, lower)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10 * np.abs(want).max())
    slope, slope_plain = pull(g)[0], np.tril(pull_plain(g)[0], -1)
    limit = 1e-10 * np.abs(slope_plain).max(initial=1)
    np.testing.assert_allclose(slope, slope_plain, rtol=0, atol=limit)


def test_the_length_of_a_chunk():
    assert [chunks.size(500, None, width) for width in (16, 48, 64)] == [32, 32, 64]
    assert [chunks.size(n, None) for n in (1, 2, 3, 17, 32, 500)] == [1, 2, 4, 32] + [
        32
    ] * 2
    assert [chunks.size(n, 8) for n in (1, 5, 8, 100)] == [1, 8, 8, 8]


def test_sums_between_tokens_do_not_cancel():
    """A difference of cumulative sums in float32 would be off by 3e-5 here."""
    g = values(1, 1, 1, 64).astype(np.float32)
    g[..., :8] -= 500
    got = np.asarray(chunks.between(g))[0, 0, 0]
    for i in range(64):
        for j in range(i + 1):
            want = g[0, 0, 0, j + 1 : i + 1].astype(np.float64).sum()
            assert abs(got[i, j] - want) <= 2e-6 * max(1, abs(want))
