"""The selective scan in chunks against its definition, one token after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from lm import sequence
from lm.ops import naive, selective
from tests.subjects import QUICK, close, going_on, values

B, F, N = 3, 5, 4


def rows(length: int):
    """(arguments before seq, a cotangent of y and of the state), in float64."""
    draw = lambda seed, *shape: values(*shape, seed=seed, dtype=np.float64)
    dt_BxTxF = np.abs(draw(1, B, length, F))
    a_FxN = -np.exp(draw(2, F, N))
    b_BxTxN, c_BxTxN = draw(3, B, length, N), draw(4, B, length, N)
    x_BxTxF, state_BxFxN = draw(0, B, length, F), draw(5, B, F, N)
    arguments = (x_BxTxF, dt_BxTxF, a_FxN, b_BxTxN, c_BxTxN, state_BxFxN)
    return arguments, (draw(6, B, length, F), draw(7, B, F, N))


def all_of(op, seq, arguments, cotangent):
    """y of valid tokens, the last state, and every gradient."""
    valid_BxTx1 = jnp.asarray(seq.valid)[..., None]

    def run(*arguments):
        y_BxTxF, state_BxFxN = op(*arguments, seq)
        return jnp.where(valid_BxTx1, y_BxTxF, 0), state_BxFxN

    def both(arguments, cotangent):
        outputs, pull = jax.vjp(run, *arguments)
        return outputs, pull(cotangent)

    return jax.jit(both, compiler_options=QUICK)(arguments, cotangent)


def packed() -> sequence.Sequence:
    """13 tokens: one document; padding around two; resets within and between chunks."""
    padded = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]
    return going_on([[1] * 13, padded, [1] * 3 + [2] + [3] * 4 + [4] * 5])


CASES = {
    "one token": (sequence.full(B, 1), None),
    "one token that resets": (sequence.full(B, 1, start=0), 4),
    "one token that goes on": (sequence.full(B, 1, start=3), 4),
    "less than a chunk": (sequence.full(B, 7, start=3), None),
    "several chunks": (sequence.full(B, 13, start=3), 4),
    "chunks of one token": (sequence.full(B, 13, start=3), 1),
    "resets and padding": (packed(), 4),
    "resets and padding in one chunk": (packed(), 16),
    "padding alone": (going_on(np.zeros((B, 6), np.int32)), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_chunks_are_the_definition_in_every_gradient(case):
    seq, chunk = CASES[case]
    with jax.enable_x64(True):
        arguments, cotangent = rows(seq.valid.shape[1])
        op = lambda *a: selective.scan(*a, chunk=chunk)
        got = all_of(op, seq, arguments, cotangent)
        close(got, all_of(naive.selective, seq, arguments, cotangent), 1e-12)


@pytest.mark.parametrize("case", ["resets and padding", "several chunks"])
def test_the_form_of_gpus_is_the_definition_too(case, monkeypatch):
    monkeypatch.setattr(selective, "FORMS", {})
    test_chunks_are_the_definition_in_every_gradient(case)


def largest(jaxpr) -> int:
    """Elements of the largest array that a jaxpr makes, loops and calls included."""
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
    inner = [j for eqn in jaxpr.eqns for j in core.jaxprs_in_params(eqn.params)]
    return max(sizes + [largest(getattr(j, "jaxpr", j)) for j in inner], default=0)


def test_the_states_of_all_tokens_are_never_held_at_once():
    (*arguments, _), length = rows(64)[0], 64
    seq = sequence.full(B, length)
    start_BxFxN = np.zeros((B, F, N))
    loss = lambda *a: jnp.sum(selective.scan(*a, start_BxFxN, seq, chunk=8)[0])
    jaxpr = jax.make_jaxpr(jax.grad(loss, range(5)))(*arguments)
    assert largest(jaxpr.jaxpr) <= B * length * F < B * length * F * N


@pytest.mark.parametrize(("fit", "tokens"), [(1, 8), (15, 8), (16, 16), (10**6, 32)])
def test_a_chunk_is_as_long_as_a_cache_holds_its_states(fit, tokens, monkeypatch):
    (*arguments, start_BxFxN), _ = rows(64)
    monkeypatch.setitem(selective.STATES, "cpu", fit * start_BxFxN.nbytes)
    with jax.enable_x64(True):
        run = lambda *a: selective.scan(*a, start_BxFxN, sequence.full(B, 64))
        jaxpr = jax.make_jaxpr(run)(*arguments)
    assert f"length={64 // tokens}\n" in str(jaxpr)


@pytest.mark.parametrize("scale", [0.0, 1e20])
def test_any_decay_is_finite(scale):
    (x, dt, a, *rest), cotangent = rows(40)
    single = lambda tree: jax.tree.map(np.float32, tree)
    arguments, cotangent = single(((x, scale * dt, a, *rest), cotangent))
    seq = sequence.full(B, 40, start=1)
    for leaf in jax.tree.leaves(all_of(selective.scan, seq, arguments, cotangent)):
        assert np.isfinite(leaf).all()
