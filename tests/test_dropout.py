"""Dropout: what its masks follow, and what they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import layers, optim, sequence
from lm import step as steps
from lm.data.loader import Batch
from lm.sequence import Sequence
from tests.subjects import (
    LENGTH,
    QUICK,
    ROWS,
    apply,
    close,
    initial,
    language_model,
    same,
    tokens,
)

WET = {"embedding_dropout": 0.2, "residual_dropout": 0.2}


def keyed(seed: int, step: int = 0, rows: int = ROWS) -> Sequence:
    """Rows with the dropout keys of one training step."""
    key = layers.fold(jax.random.key(seed), step, steps.DROPOUT)
    keys_B = jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(rows))
    return sequence.full(rows, LENGTH)._replace(key=keys_B)


def test_dropout_follows_seed_step_layer_and_role():
    x = jnp.ones((ROWS, LENGTH, 50))
    drop = lambda seq, role="mlp": np.asarray(layers.dropout(x, 0.4, seq, role))
    seq = keyed(0, 3)._replace(layer=2)
    mask = drop(seq)
    same(drop(keyed(0, 3)._replace(layer=jnp.int32(2))), mask)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.6)}
    assert abs(mask.mean() - 1) < 0.05
    others = [
        drop(keyed(1, 3)._replace(layer=2)),
        drop(keyed(0, 4)._replace(layer=2)),
        drop(seq._replace(layer=1)),
        drop(seq, "mixer"),
        np.roll(mask, 1, 0),
    ]
    for other in others:
        assert 0.4 < (other == mask).mean() < 0.65
    few = seq._replace(key=seq.key[1:])
    same(layers.dropout(x[1:], 0.4, few, "mlp"), mask[1:])
    same(drop(seq._replace(key=None)), x)


@pytest.mark.parametrize("pattern", [("attention",), ("rglru", "window")])
def test_dropout_of_the_model(pattern):
    rates = WET | {f"mixers.{pattern[-1]}.dropout": 0.2}
    wet, _ = language_model(pattern, 4, **rates)
    dry, _ = language_model(pattern, 4)
    params, seq = initial(wet), sequence.full(ROWS, LENGTH)
    want = apply(dry, params, tokens(), seq)
    same(apply(wet, params, tokens(), seq), want)
    once, _ = apply(wet, params, tokens(), keyed(0))
    assert np.abs(once - want[0]).max() > 0.1
    assert np.abs(once - apply(wet, params, tokens(), keyed(0, 1))[0]).max() > 0.1
    # The same masks whether layers are scanned or not: they follow absolute layers.
    unrolled = apply(wet.unrolled(), wet.unstack(params), tokens(), keyed(0))
    close(unrolled[0], once)


@pytest.mark.parametrize("rate", WET)
def test_each_dropout_rate_is_used(rate):
    model, _ = language_model(("gru",), 1, **{rate: 0.5})
    params = initial(model)
    once, two = (apply(model, params, tokens(), keyed(0, step))[0] for step in (0, 1))
    assert np.abs(once - two).max() > 0.1


def test_micro_batches_and_remat_see_the_same_dropout():
    rows = 4
    rates = WET | {"mixers.attention.dropout": 0.2}
    model, config = language_model(("lstm", "attention"), **rates)
    seq = sequence.from_segments(np.repeat([[1] * 5 + [2] * 8], rows, 0))
    weights = np.random.default_rng(0).random((rows, LENGTH)).astype(np.float32)
    batch = Batch(tokens(rows), tokens(rows, seed=1), weights, seq)
    hyper = optim.hyper(config, 10, 2)

    start = lambda seed: steps.initial_state(model, config, seed)
    start = jax.jit(start, compiler_options=QUICK)(0)

    def update(micro_batches, **changes):
        other = model.clone(**changes)
        step = lambda state: steps.train_step(
            other, config, micro_batches, state, batch, hyper
        )
        state, metrics = jax.jit(step, compiler_options=QUICK)(start)
        return metrics, state.optimizer.mu

    want = update(1)
    assert want[0]["grad_norm"] > 0.1
    for other in (
        update(2),
        update(4),
        update(1, remat="full"),
        update(2, remat="dots"),
    ):
        close(other, want, 2e-6)
