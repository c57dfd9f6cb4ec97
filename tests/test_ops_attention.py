"""Attention in both its forms against a plain float64 loop of its equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import sequence
from lm.ops import attention, blockwise, kv_cache
from tests.subjects import QUICK, going_on, values

B, T, K, V = 4, 11, 4, 3
SLOTS = 3
compiled = functools.partial(jax.jit, compiler_options=QUICK)
SLOPES = (0.5, 0.25, 0.125, 0.0625)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def situation(length: int = T, slots: int = SLOTS):
    """(queries, keys) of a full ring, then rows with resets, padding, padding only."""
    cache = kv_cache.empty_cache(B, slots, 1, 1, jnp.float64)
    before = going_on(
        [[1] * 6, [0, 1, 1, 1, 1, 0], [1] * 3 + [2] * 3, [0, 0, 0, 1, 1, 2]]
    )
    cache = kv_cache.write(cache, *2 * [jnp.ones((B, 6, 1, 1))], before)
    ids = [[1] * T, [0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 0], [1] * 3 + [0] * 8, [0] * T]
    query, key = kv_cache.places(cache, going_on(np.array(ids)[:, :length]))
    return jax.tree.map(np.asarray, (query, key))


def drawn(length: int = T, slots: int = SLOTS, heads: int = 4, groups: int = 2):
    """q, k, v, weights of additive logits, sinks."""
    shapes = [(B, length, heads, K), (B, slots + length, groups, K)]
    shapes += [(B, slots + length, groups, V), (groups, K), (heads,)]
    return [values(*shape, seed=i, dtype=np.float64) for i, shape in enumerate(shapes)]


CAPPED = functools.partial(attention.dot, scale=0.7, soft_cap=1.5, slopes=SLOPES)
OPTIONS = {
    "plain": (attention.dot, None, False),
    "capped": (CAPPED, 4, True),
    "additive": (attention.additive, None, False),
}


def loop(option: str, q, k, v, weights, sinks, query, key):
    """The equation, one query and head at a time; 0 for padding."""
    score, window, has_sinks = OPTIONS[option]
    y = np.zeros((*q.shape[:3], V))
    for b, t, h in np.ndindex(*q.shape[:3]):
        g = h // (q.shape[2] // k.shape[2])
        apart = query.index[b, t] - key.index[b]
        seen = (key.document[b] == query.document[b, t]) & (apart >= 0)
        seen &= apart < (window or np.inf)
        if query.document[b, t] < 0:
            continue
        assert seen.any()
        if score is attention.additive:
            e = np.tanh(q[b, t, h] + k[b, seen, g]) @ weights[g]
        else:
            e = k[b, seen, g] @ q[b, t, h]
        if score is CAPPED:
            e = 1.5 * np.tanh(0.7 * e / 1.5) - SLOPES[h] * apart[seen]
        terms = np.exp(e)
        total = terms.sum() + (np.exp(sinks[h]) if has_sinks else 0)
        y[b, t, h] = terms @ v[b, seen, g] / total
    return y


def attend(option: str, block, q, k, v, weights, sinks, query, key, drop=None):
    score, window, has_sinks = OPTIONS[option]
    return attention.attend(
        *(q, k, v, query, key),
        score=score,
        weights=weights if score is attention.additive else None,
        window=window,
        sinks_H=sinks if has_sinks else None,
        block=block,
        drop=drop,
    )


EVERY_PLAN = {
    "dense": attention.Plan(dense=10**6, rows=0, square=0),
    "rows": attention.Plan(dense=0, rows=10**6, square=0),
    "squares": attention.Plan(dense=0, rows=0, square=4),
}


@pytest.fixture(params=EVERY_PLAN)
def plan(request, monkeypatch):
    monkeypatch.setattr(attention, "ROWS", 3)
    monkeypatch.setattr(attention, "MULTIPLE", 1)
    plans = {jax.default_backend(): EVERY_PLAN[request.param]}
    monkeypatch.setattr(attention, "PLANS", plans)
    return request.param


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (4, 1)])
def test_attend_is_the_equation(plan, option, block, heads, groups):
    inputs, places = drawn(heads=heads, groups=groups), situation()
    got = compiled(functools.partial(attend, option, block))(*inputs, *places)
    np.testing.assert_allclose(got, loop(option, *inputs, *places), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", blockwise.ORDERS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("length", "slots", "block"),
    [(1, 3, 2), (T, 3, 4), (T, 0, 1), (T, 0, 4), (8, 0, 4), (T, 5, 64)],
)
def test_the_forms_agree_in_outputs_and_gradients(order, option, length, slots, block):
    score, window, has_sinks = OPTIONS[option]
    q, k, v, weights, sinks = drawn(length, slots)
    q = np.moveaxis(q.reshape(B, length, 2, 2, K), 1, 3)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    weights = weights if score is attention.additive else None
    sinks = sinks.reshape(2, 2) if has_sinks else None
    places = situation(length, slots)
    ours = (places[0].document >= 0)[:, None, None, :, None]
    toward = values(*q.shape[:-1], V, seed=9, dtype=np.float64) * ours

    def run(form):
        def loss(inputs):
            y = jnp.where(ours, form(*inputs, *places), 0)
            return jnp.sum(toward * y), y

        grad = compiled(jax.value_and_grad(loss, has_aux=True))
        (_, y), grads = grad((q, k, v, weights, sinks))
        return y, grads

    want = run(functools.partial(attention.dense, score, window, None))
    got = run(functools.partial(attention.blockwise, order, score, window, block))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), got, want
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_not_seen_changes_no_bit(plan, option):
    q, k, v, weights, sinks = drawn()
    query, key = situation()
    unseen = ~kv_cache.visible(query, key, OPTIONS[option][1]).any(1)
    assert unseen[1:].any(1).all()

    @compiled
    def run(q, k, v):
        y, pull = jax.vjp(
            lambda *x: attend(option, None, *x, weights, sinks, query, key), q, k, v
        )
        return y, pull(jnp.ones_like(y))

    want = run(q, k, v)
    garbage = lambda x, size: np.where(unseen[..., None, None], size, x)
    got = run(q, garbage(k, 1e30), garbage(v, 1e30))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    for grad in want[1][1:]:
        assert not np.asarray(grad)[unseen].any()


@pytest.mark.parametrize("window", [None, 1, 3, 7])
@pytest.mark.parametrize("block", [1, 3, 4, 20])
@pytest.mark.parametrize("slots", [0, 2, 5])
def test_blocks_are_visited_where_a_pair_may_be_visible(window, block, slots):
    S = slots + T
    visited = {tuple(visit) for visit in blockwise.squares(T, S, block, window)}
    apart = np.arange(T)[:, None] + slots - np.arange(S)
    seen = (apart >= 0) & (apart < (window or S)) | (np.arange(S) < slots)
    want = {(t // block, s // block) for t, s in np.argwhere(seen)}
    assert want <= visited
    # A block whose last query lies beyond the row may be visited for nothing.
    full = T // block
    assert {v for v in visited if v[0] < full} == {v for v in want if v[0] < full}
    assert len(visited) == len(blockwise.squares(T, S, block, window))
    rows = blockwise.rows(T, S, block, window)
    assert [t for (first, end), _ in rows for t in range(first, end)] == list(range(T))
    for (first, end), (low, high) in rows:
        keys = np.flatnonzero(seen[first:end].any(0))
        assert (low, high) == (0 if slots else keys[0], keys[-1] + 1)


@pytest.mark.parametrize(
    ("score", "weights"),
    [(attention.dot, None), (attention.additive, np.ones((1, 8), np.float32))],
)
def test_temporaries_are_linear_in_the_length(score, weights):
    def temporaries(length: int) -> int:
        seq = sequence.full(1, length)
        cache = kv_cache.empty_cache(1, 0, 1, 8, jnp.float32)
        places = kv_cache.places(cache, seq)

        def loss(q, k, v):
            options = {"score": score, "weights": weights, "block": 64}
            return jnp.sum(attention.attend(q, k, v, *places, **options) ** 2)

        x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.3 * temporaries(2048)
    assert temporaries(4096) < 4096**2


def test_a_call_goes_through_by_its_pairs(monkeypatch):
    plans = {jax.default_backend(): attention.Plan(dense=30, rows=600, square=256)}
    monkeypatch.setattr(attention, "PLANS", plans)
    forms = {(3, 10): ("dense", 3), (3, 11): ("rows", 16), (1, 999): ("dense", 1)}
    forms |= {(6, 100): ("rows", 16), (6, 101): ("squares", 256)}
    assert {sizes: attention.order(*sizes) for sizes in forms} == forms
    assert attention.order(65, 9)[1] == 32
    monkeypatch.setattr(attention, "PLANS", {})
    assert attention.order(512, 512) == ("dense", 512)
    assert attention.order(512, 513) == ("squares", attention.OTHERS.square)


def test_the_form_of_a_plan_is_what_runs(plan):
    inputs, places = drawn(), situation()
    run = lambda *inputs: attend("plain", None, *inputs, *places)
    text = str(jax.make_jaxpr(run)(*inputs))
    assert ("scan" in text) == (plan == "squares")
    assert text.count("= log") == {"dense": 0, "rows": 3, "squares": 1}[plan]


@pytest.mark.parametrize("block", [None, 4])
def test_the_softmax_that_is_dropped_from_is_whole_and_in_float32(block):
    *inputs, weights, sinks = (x.astype(jnp.bfloat16) for x in drawn())
    seen = []
    drop = lambda softmax: seen.append((softmax.shape, softmax.dtype)) or 0 * softmax
    y = attend("capped", block, *inputs, weights, sinks, *situation(), drop)
    assert seen == [((B, 2, 2, T, SLOTS + T), jnp.float32)]
    assert y.dtype == jnp.bfloat16 and not np.asarray(y, np.float32).any()


@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_in_bfloat16_are_those_in_float32(plan, heads, monkeypatch):
    monkeypatch.setattr(attention, "MULTIPLE", 16)
    rows, length, groups, width = 4, 128, 2, 16
    cache = kv_cache.empty_cache(rows, 0, 1, 1, jnp.float32)
    places = kv_cache.places(cache, sequence.full(rows, length))
    counts = (heads * groups, groups, groups, heads * groups)
    draw = lambda seed, heads: values(rows, length, heads, width, seed=seed)
    *inputs, toward = (draw(*item) for item in enumerate(counts))
    inputs = [np.asarray(x, jnp.bfloat16).astype(np.float32) for x in inputs]

    def run(dtype):
        def loss(*inputs):
            y = attention.attend(*inputs, *places)
            assert y.dtype == dtype
            return jnp.sum(toward * y.astype(jnp.float32))

        grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*(x.astype(dtype) for x in inputs))
        assert {grad.dtype for grad in grads} == {jnp.dtype(dtype)}
        return [np.asarray(grad, np.float32) for grad in grads]

    for got, want in zip(run(jnp.bfloat16), run(jnp.float32), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=0.015 * np.abs(want).max())


def test_sums_over_blocks_of_bfloat16_are_in_float32():
    S = 600  # a sum of ones in bfloat16 ends at 256
    q = jnp.zeros((1, 1, 1, 1, 1), jnp.bfloat16)
    k = jnp.zeros((1, 1, S, 1), jnp.bfloat16)
    v = (jnp.arange(S) >= S // 2).astype(jnp.bfloat16)[None, None, :, None]
    one = jnp.ones((1, S), jnp.int32)
    key = kv_cache.Tokens(one, jnp.arange(S)[None])
    query = kv_cache.Tokens(one[:, -1:], key.index[:, -1:])
    run = functools.partial(attention.blockwise, "squares", attention.dot, None, 1)
    y = compiled(run)(q, k, v, None, None, query, key)
    assert (y.dtype, float(y[0, 0, 0, 0, 0])) == (jnp.bfloat16, 0.5)


@pytest.mark.parametrize("pairing", ["halves", "interleaved"])
def test_rope_turns_each_pair_by_its_own_angle(pairing):
    K, theta = 6, 100.0
    x = values(B, T, 2, K, dtype=np.float64)
    positions = np.random.default_rng(0).integers(0, 5000, (B, T), np.int32)
    got = np.asarray(attention.rope(x, positions, theta, pairing))
    split = lambda x: (x[..., : K // 2], x[..., K // 2 :])
    if pairing == "interleaved":
        split = lambda x: (x[..., ::2], x[..., 1::2])
    real, imaginary = split(x)
    for i in range(K // 2):
        angle = positions[..., None] * theta ** (-2 * i / K)
        turned = (real[..., i] + 1j * imaginary[..., i]) * np.exp(1j * angle)
        parts = [part[..., i] for part in split(got)]
        np.testing.assert_allclose(parts, [turned.real, turned.imag], 0, 1e-9)


def test_alibi_slopes_of_the_paper():
    assert attention.alibi_slopes(8) == tuple(2.0**-h for h in range(1, 9))
    between = tuple(2.0 ** -(h + 0.5) for h in range(4))
    assert attention.alibi_slopes(12) == attention.alibi_slopes(8) + between
    assert attention.alibi_slopes(1) == (2.0**-8,)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
def test_pairs_are_the_pairs_that_are_visible(window):
    for length in (1, 2, 5, 11):
        brute = sum(
            0 <= t - s < (window or length)
            for t in range(length)
            for s in range(length)
        )
        assert attention.pairs(length, window) == brute
        cache = kv_cache.empty_cache(1, 0, 1, 2, jnp.float32)
        places = kv_cache.places(cache, sequence.full(1, length))
        apart = np.subtract.outer(np.arange(length), np.arange(length))
        want = (apart >= 0) & (apart < (window or length))
        mask = kv_cache.visible(*places, window)[0]
        np.testing.assert_array_equal(mask, want)


def test_the_mask_of_a_full_ring_is_the_last_window():
    window, slots = 4, 3
    cache = kv_cache.empty_cache(1, slots, 1, 2, jnp.float32)
    for t in range(10):
        seq = sequence.full(1, 1, start=t)
        seq = seq._replace(reset=np.array([[t in (0, 6)]]))
        places = kv_cache.places(cache, seq)
        mask = np.asarray(kv_cache.visible(*places, window))[0, 0]
        index = np.append(np.asarray(cache["index"])[0], t)
        first = max(t - window + 1, 6 if t >= 6 else 0)
        assert sorted(index[mask]) == list(range(first, t + 1))
        cache = kv_cache.write(cache, *2 * [jnp.zeros((1, 1, 1, 2), jnp.float32)], seq)
