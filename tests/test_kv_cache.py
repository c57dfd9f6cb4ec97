"""One token over the cache, without joining its key to it, is the general form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.ops import attention, cached, kv_cache
from tests.subjects import QUICK, close, going_on, same, values

B, H, G, K, V, SLOTS = 4, 4, 2, 6, 3, 5
SLOPES = (0.5, 0.25, 0.125, 0.0625)
CAPPED = functools.partial(attention.dot, scale=0.7, soft_cap=1.5, slopes=SLOPES)
OPTIONS = {
    "plain": dict(),
    "capped": dict(score=CAPPED, window=4, sinks_H=values(H, seed=7)),
    "additive": dict(score=attention.additive, weights=values(G, K, seed=8)),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(length: int, seed: int):
    """q, k, v."""
    shapes = [(B, length, H, K), (B, length, G, K), (B, length, G, V)]
    make = lambda i, shape: values(*shape, seed=10 * seed + i, dtype=np.float64)
    return [make(i, shape) for i, shape in enumerate(shapes)]


def filled():
    """A cache after a full ring, two documents, padding, and nothing."""
    cache = kv_cache.empty_cache(B, SLOTS, G, K, jnp.float64, V)
    before = [[1] * 8, [1] * 3 + [2] * 5, [0, 0, 1, 1, 1, 0, 0, 0], [0] * 8]
    return kv_cache.write(cache, *drawn(8, 1)[1:], going_on(before))


def joined(cache, q, k, v, seq, **options):
    """The general form: keys of the cache, then the token's own."""
    join = lambda slots, new: jnp.concatenate([jnp.swapaxes(slots, 1, 2), new], 1)
    y = attention.attend(
        q,
        join(cache["key"], k),
        join(cache["value"], v),
        *kv_cache.places(cache, seq),
        **options,
    )
    return y, kv_cache.write(cache, k, v, seq)


@pytest.mark.parametrize("option", OPTIONS)
def test_one_token_is_the_general_form(option):
    run = lambda form: jax.jit(
        functools.partial(form, **OPTIONS[option]), compiler_options=QUICK
    )
    one = run(lambda cache, q, k, v, seq, **o: cached.attend(q, k, v, cache, seq, **o))
    ours, theirs = filled(), filled()
    for t, ids in enumerate([[1, 1, 1, 1], [1, 0, 2, 0], [2, 1, 0, 1], [1, 1, 1, 1]]):
        seq = going_on(np.array(ids)[:, None], 20 + t)
        y, ours = one(ours, *drawn(1, 2 + t), seq)
        want, theirs = run(joined)(theirs, *drawn(1, 2 + t), seq)
        close(y, want, 1e-13)
        same(ours, theirs)
        assert not np.asarray(y)[np.array(ids) == 0].any()


def test_a_token_replaces_the_oldest_of_a_full_ring_after_it_was_seen():
    cache = kv_cache.empty_cache(1, 3, 1, 1, jnp.float64)
    zero, seen = jnp.zeros((1, 1, 1, 1)), []
    for t in range(7):
        seq = going_on(np.ones((1, 1), int), t)
        y, cache = cached.attend(zero, zero, zero + 10**t, cache, seq, window=4)
        seen.append(float(y[0, 0, 0, 0] * min(t + 1, 4)))
    np.testing.assert_allclose(seen[2:5], [111, 1111, 11110], rtol=1e-12)
    assert sorted(np.asarray(cache["index"])[0]) == [4, 5, 6]


def test_no_cache_is_copied_to_be_overwritten():
    shape = dict(batch=8, slots=512, kv_heads=2, key=64)
    cache = jax.eval_shape(lambda: kv_cache.empty_cache(**shape, dtype=jnp.float32))
    new = [jax.ShapeDtypeStruct((8, 1, 2, 64), jnp.float32)] * 3
    seq = going_on(np.ones((8, 1), int), 9)
    step = lambda cache, *new: cached.attend(*new, cache, seq)
    compiled = jax.jit(step, donate_argnums=0).lower(cache, *new).compile()
    one_buffer = cache["key"].size * 4
    assert compiled.memory_analysis().temp_size_in_bytes < one_buffer / 4


def test_a_row_of_nan_leaves_the_cache_as_it_is():
    q, k, v = drawn(1, 3)
    q[1] = np.nan
    seq = going_on(np.ones((B, 1), int), 9)
    y, cache = cached.attend(q, k, v, filled(), seq)
    assert np.isnan(y[1]).all() and np.isfinite(np.delete(y, 1, 0)).all()
    for name in ("key", "value", "document", "index"):
        np.testing.assert_array_equal(cache[name][1], filled()[name][1])
        assert (np.asarray(cache[name][0]) != np.asarray(filled()[name][0])).any() or (
            name == "document"
        )
