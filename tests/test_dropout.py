"""Dropout: what its masks follow, and what they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import dropout, layers, optim, sequence
from lm import step as steps
from lm.data.loader import Batch
from lm.dropout import MASKS, Dropout
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
    values,
)

WET = {
    "word_dropout": 0.2,
    "embedding_dropout": 0.2,
    "residual_dropout": 0.2,
    "output_dropout": 0.2,
}


def keyed(seed: int, step: int = 0, rows: int = ROWS) -> Sequence:
    """Rows with the dropout keys of one training step."""
    key = layers.fold(jax.random.key(seed), step, steps.DROPOUT)
    keys_B = jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(rows))
    return sequence.full(rows, LENGTH)._replace(key=keys_B, step_key=key)


def test_dropout_follows_seed_step_layer_and_role():
    x = jnp.ones((ROWS, LENGTH, 50))
    drop = lambda seq, role="mlp": np.asarray(Dropout(0.4)(x, seq, role))
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
    same(Dropout(0.4)(x[1:], few, "mlp"), mask[1:])
    same(drop(seq._replace(key=None)), x)


def test_a_mask_of_the_sequence_is_one_for_all_its_tokens():
    x = jnp.ones((ROWS, LENGTH, 5, 50))
    mask = np.asarray(Dropout(0.4, "sequence")(x, keyed(0), "mlp"))
    same(mask, np.broadcast_to(mask[:, :1], mask.shape))
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.6)}
    assert abs(mask[:, 0].mean() - 1) < 0.1
    for other in (np.roll(mask, 1, 0), np.roll(mask, 1, 2)):
        assert 0.4 < (other == mask).mean() < 0.65


def test_a_row_loses_a_word_at_all_its_places_or_at_none():
    words = np.tile(np.arange(40), 3)[None].repeat(2, 0)  # two rows, alike
    seq = keyed(0, rows=2)
    x = jnp.ones((*words.shape, 3))
    mask = np.asarray(dropout.words(x, words, 0.4, seq))
    same(mask, np.broadcast_to(mask[..., :1], mask.shape))
    once = mask[:, :40, 0]
    same(mask[..., 0], np.tile(once, 3))
    assert set(np.unique(once)) == {0, np.float32(1 / 0.6)}
    assert 0.2 < (once == 0).mean() < 0.6
    assert 0.2 < (once[0] == once[1]).mean() < 0.8
    same(dropout.words(x, words, 0.4, seq._replace(key=None)), x)


def test_connections_are_dropped_for_all_rows_alike():
    kernel = jnp.ones((30, 40))
    drop = lambda seq: np.asarray(dropout.connections(kernel, 0.4, seq, "kernel"))
    seq = keyed(0, 3)._replace(layer=2)
    mask = drop(seq)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.6)}
    assert abs(mask.mean() - 1) < 0.1
    same(drop(seq._replace(key=seq.key[1:])), mask)
    for other in (
        drop(keyed(1, 3)._replace(layer=2)),
        drop(keyed(0, 4)._replace(layer=2)),
        drop(seq._replace(layer=1)),
    ):
        assert 0.4 < (other == mask).mean() < 0.65
    same(drop(seq._replace(step_key=None)), kernel)


@pytest.mark.parametrize("kind", ["lstm", "gru", "elman", "slstm"])
def test_recurrent_weights_are_dropped(kind):
    wet, _ = language_model((kind,), 1, **{f"mixers.{kind}.weight_dropout": 0.5})
    dry, _ = language_model((kind,), 1)
    noise = lambda x: x + 0.3 * values(*x.shape, seed=x.size)  # sLSTM's are born 0
    params = jax.tree.map(noise, initial(wet))
    once, two, none = (apply(wet, params, tokens(), keyed(0, s))[0] for s in (0, 1, 0))
    same(once, none)
    assert np.abs(once - two).max() > 1e-3
    without = keyed(0)._replace(step_key=None)
    same(apply(wet, params, tokens(), without), apply(dry, params, tokens(), without))
    # No token sees its own h before the second, whatever the recurrent weights.
    close(once[:, 0], two[:, 0])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pattern", [("attention",), ("rglru", "window")])
def test_dropout_of_the_model(pattern, mask):
    rates = WET | {f"mixers.{pattern[-1]}.dropout": 0.2, "dropout_mask": mask}
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
    rates = WET | {"mixers.attention.dropout": 0.2, "mixers.lstm.weight_dropout": 0.2}
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
