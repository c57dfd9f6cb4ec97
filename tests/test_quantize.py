"""int8 weights: errors within half a step, and models that decode with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import parameters, quantize, sequence
from lm.generate import Sampling, continuations
from lm.mixers import MIXERS
from lm.ops import int8
from lm.ops.int8 import Int8
from tests.subjects import QUICK, close, form, initial, language_model, tokens, values

GREEDY = Sampling(temperature=0.0)


def whole(q: Int8, axis: int = 0) -> np.ndarray:
    """The matrix that is stored, in float64 and in the order of the original."""
    scale = np.asarray(q.scale)
    values = np.asarray(q.values, np.float64)[:, : scale.size]
    return np.moveaxis(values * scale, 0, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_entry_is_off_by_half_a_step_at_most(axis):
    w = values(24, 40)
    w[3] *= 100
    w[:, 5] = 0
    q = int8.quantize(w, axis)
    step = np.abs(w).max(axis, keepdims=True) / 127
    assert q.values.dtype == jnp.int8 and q.scale.shape == (step.size,)
    assert whole(q, axis).shape == w.shape and q.values.shape[1] == 64
    assert not q.values[:, step.size :].any()
    error = np.abs(whole(q, axis) - w)
    assert (error <= step * (0.5 + 1e-5)).all() and error.max() > 0.4 * step.max()
    assert np.abs(np.asarray(q.values)).max() == 127


@pytest.mark.parametrize("digits", [2, None])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("D", [64, 40, 7])
def test_products_are_those_of_the_matrix_that_is_stored(D, rows, digits, monkeypatch):
    """By integers to 254^-digits of the row's largest number, a product."""
    monkeypatch.setitem(int8.DIGITS, "cpu", digits)
    F, x = 50, values(rows, 1, D, seed=1)
    kernel, table = int8.quantize(values(D, F), 0), int8.quantize(values(F, D), 1)
    run = lambda f, *args: jax.jit(f, compiler_options=QUICK)(*args)
    step = np.abs(x).max(-1, keepdims=True) / 254**digits if digits else 0

    def check(got, want, matrix_DxF):
        bound = step * np.abs(matrix_DxF).sum(0) + 1e-5 * (1 + np.abs(want))
        assert (np.abs(got - want) <= bound).all()

    got = run(lambda x, w: x @ w.astype(x.dtype), x, kernel)
    check(got, x @ whole(kernel), whole(kernel))
    got = run(lambda x, w: w.logits(x), x, table)
    check(got, x @ whole(table, 1).T, whole(table))
    ids = np.array([[4, 49], [0, 4]])
    got = run(lambda w: w.astype(jnp.float32)[ids], table)
    np.testing.assert_allclose(got, whole(table, 1)[ids], 1e-6)


def test_rows_of_zeros_and_of_no_numbers():
    kernel = int8.quantize(values(8, 4), 0)
    x = np.zeros((3, 8), np.float32)
    x[1, 2], x[2, 2] = np.nan, np.inf
    y = np.asarray(jax.jit(lambda x: x @ kernel)(x))
    assert (y[0] == 0).all() and not np.isfinite(y[1:]).any()
    with jax.debug_nans(True):  # whatever a NaN would become as an integer
        jnp.asarray(x[:1]) @ kernel


def test_activations_keep_their_dtype():
    x, kernel = jnp.ones((1, 1, 32), jnp.bfloat16), int8.quantize(values(32, 8), 0)
    assert (x @ kernel.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    table = int8.quantize(values(8, 32), 1).astype(jnp.bfloat16)
    assert table[jnp.zeros((1, 1), int)].dtype == jnp.bfloat16
    assert table.logits(x).dtype == jnp.float32


def is_int8(x) -> bool:
    return isinstance(x, Int8)


def decoder(pattern: tuple[str, ...]):
    """(unrolled model, parameters, as int8, what they stand for in float32)."""
    model, _ = language_model(pattern, max(2, len(pattern)))
    params = model.unstack(initial(model))
    small = quantize.int8(params)

    def stored(q, original):
        axis = int(is_int8(q) and q.scale.size != original.shape[1])
        return jnp.asarray(whole(q, axis), jnp.float32) if is_int8(q) else q

    stored = jax.tree.map(stored, small, params, is_leaf=is_int8)
    return model.unrolled(), params, small, stored


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_steps_with_int8_weights(name, monkeypatch):
    """As with the same weights in float32, and near to the unquantised."""
    monkeypatch.setitem(int8.DIGITS, "cpu", 3)  # activations as exact as float32
    model, params, small, stored = decoder((name,))
    kept = jax.tree.leaves(jax.tree.map(is_int8, small, is_leaf=is_int8))
    names = [
        path.rpartition("/")[2] for path in jax.tree.leaves(parameters.paths(params))
    ]
    assert kept == [name in ("kernel", "embedding", "head_kernel") for name in names]
    call = lambda params: model.apply(
        {"params": params}, tokens(1, 1), sequence.full(1, 1), state, method="hidden"
    )
    state = model.initial_state(1, 4)
    run = jax.jit(call, compiler_options=QUICK)
    (exact, _, _), (near, head, _) = run(params), run(stored)
    ours, table, after = run(small)
    close(ours, near, 1e-4)
    close(table.logits(ours), near @ head.T, 1e-4)
    assert form(after) == form(state)
    assert 0 < np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("pattern", [("attention",), ("lstm", "window")])
def test_continuations_are_those_of_the_matrices_that_are_stored(pattern):
    model, _, small, stored = decoder(pattern)
    prompts = [tokens(1, n, seed=n)[0] for n in (9, 1, 5)]
    for rows in (prompts, prompts[:1]):
        got = continuations(model, small, rows, 6, GREEDY)
        want = continuations(model, stored, rows, 6, GREEDY)
        np.testing.assert_array_equal(got, want)
