"""The recurrences, dense and diagonal, against plain float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from lm.ops import cells, diagonal, rnn
from tests.subjects import QUICK, going_on, values

B, T, D, H = 3, 11, 5, 6


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


def rows(length: int, batch: int = 4):
    """One document; padding, a reset and padding; a reset; nothing but padding."""
    ids = [[1] * 6, [0, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 2], [0] * 6]
    return going_on(np.array(ids)[:batch, -length:], 2)


def plain_scan(cell, params, kernel, x, state, start, seq):
    """What rnn.scan computes, as a Python loop over tokens."""
    blocks = kernel if kernel.ndim == 3 else kernel[None]
    heads, K, F = blocks.shape

    def choose(condition, new, old):
        return jax.tree.map(lambda n, o: jnp.where(condition[:, None], n, o), new, old)

    def recurrent(h):
        parts = [h[:, n * K : n * K + K] @ blocks[n] for n in range(heads)]
        gates = [p[:, g : g + K] for g in range(0, F, K) for p in parts]
        return jnp.concatenate(gates, -1)

    hidden = []
    for t in range(x.shape[1]):
        state = choose(seq.reset[:, t], start, state)
        new = cell(params, state, x[:, t], recurrent(jax.tree.leaves(state)[-1]))
        state = choose(seq.valid[:, t], new, state)
        hidden.append(jax.tree.leaves(state)[-1])
    return jnp.stack(hidden, 1), state


CELLS = {
    "tanh": (cells.ELMAN["tanh"], 1, 1),
    "relu": (cells.ELMAN["relu"], 1, 1),
    "lstm": (cells.LSTM, 4, 2),
    "gru": (cells.GRU, 3, 1),
    "slstm": (cells.SLSTM["sigmoid"], 4, 4),
    "slstm_exp": (cells.SLSTM["exp"], 4, 4),
}


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize(
    ("length", "chunk", "batch", "parts"),
    [(1, 4, 4, 2), (6, 8, 4, 1), (6, 2, 4, 2), (5, 2, 3, 2)],
)
@pytest.mark.parametrize("name", CELLS)
def test_nonlinear_recurrence_and_its_adjoint(
    name, length, chunk, batch, parts, heads, monkeypatch
):
    monkeypatch.setitem(rnn.ROWS, "cpu", batch * chunk)
    monkeypatch.setitem(rnn.PARTS, "cpu", parts)
    cell, gates, leaves = CELLS[name]
    seq, size = rows(length, batch), (1 if heads is None else heads)
    shape = (size, H // size, gates * H // size)
    number = lambda *shape, seed: values(*shape, seed=seed, dtype=np.float64)
    kernel = number(*(shape[1:] if heads is None else shape), seed=1)
    bias = number(H, seed=2) if name == "gru" else ()
    x = number(batch, length, gates * H, seed=3)

    def some_state(seed):
        state = [number(batch, H, seed=seed + i) for i in range(leaves)]
        if leaves == 4:
            state[1] = 1 + np.abs(state[1])  # n, which divides
        return state[0] if leaves == 1 else tuple(state)

    def all_of(scan):
        def project(bias, kernel, x, state, start):
            out = scan(cell, bias, kernel, x, state, start, seq)
            weigh = lambda y: jnp.sum(y * number(*y.shape, seed=y.ndim))
            return sum(map(weigh, jax.tree.leaves(out))), out

        grad = jax.value_and_grad(project, range(5), has_aux=True)
        run = jax.jit(grad, compiler_options=QUICK)
        return run(bias, kernel, x, some_state(10), some_state(20))

    def check(got, want):
        size = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * size)

    jax.tree.map(check, all_of(rnn.scan), all_of(plain_scan))


def test_a_new_stabiliser_is_the_input_gate_itself():
    """n = 0 holds no token: its m is no exponent, however large."""
    cell = cells.SLSTM["sigmoid"]
    x = jnp.array([[-900.0, 3.0, 0.5, 0.2]])
    zero = jnp.zeros((1, 1))
    for stale in (0.0, 700.0):
        c, n, m, h = cell((), (zero, zero, zero + stale, zero), x, jnp.zeros((1, 4)))
        want = jax.nn.sigmoid(0.2) * jnp.tanh(0.5)
        np.testing.assert_allclose([n[0, 0], m[0, 0]], [1, -900], rtol=1e-12)
        np.testing.assert_allclose(h[0, 0], want, rtol=1e-12)
        np.testing.assert_allclose(c[0, 0], np.tanh(0.5), rtol=1e-12)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_of_the_recurrent_matrix_is_one_product(parts, monkeypatch):
    """No matrix product but h R and its transpose runs in a loop over tokens: that of
    the gradient runs once a chunk."""
    monkeypatch.setitem(rnn.PARTS, "cpu", parts)
    seq = rows(6)
    state = np.zeros((4, H)), np.zeros((4, H))
    x, kernel = values(4, 6, 4 * H), values(H, 4 * H)
    loss = lambda R: jnp.sum(rnn.scan(cells.LSTM, (), R, x, state, state, seq)[0])

    def products(jaxpr, runs=1):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield runs
            inside = runs * eqn.params.get("length", 1)
            for inner in core.jaxprs_in_params(eqn.params):
                yield from products(inner, inside)

    found = list(products(jax.make_jaxpr(jax.grad(loss))(kernel).jaxpr))
    # At the resets of the chunk, R; each token, forward and backward.
    assert sorted(found) == [1, 1] + 2 * parts * [6]
