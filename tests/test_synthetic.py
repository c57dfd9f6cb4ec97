"""Tasks as data: batches, tests, splits and figures."""

import math

import numpy as np
import pytest

from lm import config as configs
from lm import evaluate
from lm.config import ConfigError
from lm.data import Synthetic, TaskBatches, prepare, train_batches
from tests import runs

BASE = str(runs.ROOT / "configs/base.py")
TESTS = {"x2": {"length": 16}, "rows": {"held_out": 5}}
FIELDS = {"kind": "parity", "length": 8, "held_out": 7, "tests": TESTS}


def load(fields=FIELDS, context=8, **changes):
    """The unresolved config of a run on a task; `__` in a name stands for a dot."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    sizes = {"data.context": context, "train.batch_tokens": 4 * context}
    return configs.load(BASE, {"data.task": fields} | sizes | dotted)


def config(*args, **changes):
    return configs.resolve(load(*args, **changes))


def assert_equal(one, other):
    for a, b in zip((*one[:3], *one.seq), (*other[:3], *other.seq), strict=True):
        np.testing.assert_array_equal(a, b)


def rows_of(batch) -> set[bytes]:
    return {row.tobytes() for row in np.asarray(batch.tokens)}


def test_a_batch_follows_from_seed_and_step_whatever_was_asked_before():
    data = Synthetic(FIELDS | {"length": 64})
    forward, back = TaskBatches(data, 4, seed=3), TaskBatches(data, 4, seed=3)
    ahead = [forward(step) for step in range(4)]
    for step in (3, 0, 2, 1, 3):
        assert_equal(back(step), ahead[step])
    others = [*ahead[1:], TaskBatches(data, 4, seed=4)(0)]
    assert not any(rows_of(ahead[0]) & rows_of(other) for other in others)
    # Row r of a step is example step * rows + r, whatever the size of a batch.
    whole = TaskBatches(data, 8, seed=3)(1)
    np.testing.assert_array_equal(whole.tokens[:4], ahead[2].tokens)
    np.testing.assert_array_equal(whole.tokens[4:], ahead[3].tokens)


def test_examples_come_again_in_turn_and_make_epochs():
    fields = FIELDS | {"length": 64}
    few = TaskBatches(Synthetic(fields | {"examples": 6}), 4, seed=0)
    new = TaskBatches(Synthetic(fields), 4, seed=0)
    tokens = np.concatenate([few(step).tokens for step in range(4)])
    np.testing.assert_array_equal(tokens[6:12], tokens[:6])
    np.testing.assert_array_equal(tokens[12:], tokens[:4])
    assert len(np.unique(tokens, axis=0)) == 6
    np.testing.assert_array_equal(tokens[:4], new(0).tokens)
    assert (few.steps_per_epoch, new.steps_per_epoch) == (1.5, None)
    told = config(FIELDS | {"examples": 64}, train__duration="2 epochs")
    batches = train_batches(prepare(told.data), told)
    assert configs.durations(told, batches.steps_per_epoch).steps == 2 * 64 / 4


def test_a_row_is_a_document_and_weights_are_what_is_scored():
    for kind, length in (("parity", 8), ("induction", 8), ("copying", 3)):
        data = Synthetic({"kind": kind, "length": length, "held_out": 7})
        *_, last = data.held_out("test", "same", 3)  # one row and two of padding
        examples = data.rows("same", (0, 5), np.arange(3))
        batch = TaskBatches(data, 3, seed=5)(0)
        np.testing.assert_array_equal(batch.tokens, examples.tokens)
        np.testing.assert_array_equal(batch.targets, examples.targets)
        np.testing.assert_array_equal(batch.weights, examples.scored)
        seq, T = batch.seq, data.task.context
        assert (seq.segment_ids == 1).all() and seq.valid.all()
        assert seq.reset.sum(1).tolist() == [1] * 3 and seq.reset[:, 0].all()
        assert (seq.positions == np.arange(T)).all()
        assert last.tokens.shape == (3, T)
        assert last.seq.valid.any(1).tolist() == [True, False, False]
        parts = (last.tokens, last.targets, last.weights, *last.seq)
        assert not any(part[1:].any() for part in parts if part is not None)


def test_a_test_has_the_tasks_fields_but_for_its_own_and_those_of_training():
    tests = {"long": {"length": 9}, "few": {"held_out": 2, "shortest": 2}}
    fields = {"kind": "copying", "length": 6, "shortest": 2, "vocabulary": 5}
    with pytest.raises(ConfigError, match=r"tests\.few\.shortest"):
        load(fields | {"tests": tests}, context=14)
    del tests["few"]["shortest"]
    found = config(fields | {"examples": 8, "tests": tests}, context=14).data
    tests = prepare(found).tests
    same, long, few = (tests[name] for name in ("same", "long", "few"))
    assert (same.shortest, same.examples) == (2, 8)
    for test in (long, few):
        assert (test.shortest, test.examples, test.vocabulary) == (None, None, 5)
    assert (long.length, few.length) == (9, 6)
    assert (same.held_out, long.held_out, few.held_out) == (512, 512, 2)


@pytest.mark.parametrize(
    ("kind", "lengths", "long", "short"),
    [
        ("parity", (8, 12, 6), range(8, 12), range(6)),
        ("word_problem", (8, 12, 6), range(8, 12), range(6)),
        ("copying", (3, 5, 2), range(6, 11), range(3, 5)),  # 8, 12 and 6 tokens
    ],
)
def test_a_longer_test_scores_what_lies_beyond_training_where_rows_go_on(
    kind, lengths, long, short
):
    length, longer, shorter = lengths
    tests = {"long": {"length": longer}, "short": {"length": shorter}}
    data = Synthetic({"kind": kind, "length": length, "tests": tests})
    for name, places in (("long", long), ("short", short)):
        batch = next(data.held_out("test", name, 4))
        assert (batch.weights.sum(0) > 0).nonzero()[0].tolist() == list(places)


def test_splits_and_tests_share_no_row_and_know_no_seed_of_a_run():
    tests = {"again": {"held_out": 7}}
    fields = FIELDS | {"length": 64, "tests": tests}
    datas = [prepare(config(fields, 64, seed=seed).data) for seed in (0, 5)]
    found = []
    for split in ("train", "validation", "test"):
        for name in ("same", "again"):
            one, other = (next(d.held_out(split, name, 7)) for d in datas)
            assert_equal(one, other)
            found.append(rows_of(one))
    found += [rows_of(TaskBatches(datas[0], 64, seed)(0)) for seed in (0, 5)]
    assert sum(map(len, found)) == len(set.union(*found)) == 6 * 7 + 2 * 64


def test_figures_of_rows_are_those_counted_by_hand():
    nats = np.array([[9.0, 1.0, 2.0, 3.0], [9.0, 5.0, 6.0, 7.0]])
    right = np.array([[False, True, True, True], [True, True, False, False]])
    scored = np.array([[False, True, True, True], [False, True, True, False]])
    assert evaluate.graded(nats, right, scored) == {
        "rows": 2,
        "tokens": 5,
        "nats_per_token": 17 / 5,
        "accuracy": 4 / 5,
        "exact": 1 / 2,
        "by_position": [[1, 1, 3.0], [2, 3, 11 / 3]],
        "accuracy_by_position": [[1, 1, 1.0], [2, 3, 2 / 3]],
    }


def test_a_perfect_predictor_has_1_and_a_guess_has_chance():
    data = Synthetic({"kind": "parity", "length": 8, "held_out": 2000})
    batch = next(data.held_out("test", "same", 2000))
    scored, nats = batch.weights > 0, np.full(batch.weights.shape, math.log(2))
    perfect = evaluate.graded(0 * nats, batch.targets == batch.targets, scored)
    assert (perfect["accuracy"], perfect["exact"]) == (1, 1)
    guess = evaluate.graded(nats, batch.targets == 0, scored)
    chance = data.facts()["chance"]["same"]
    assert abs(guess["accuracy"] - chance) < 5 * 0.5 / math.sqrt(guess["tokens"])
    assert abs(guess["exact"] - chance**8) < 0.01
    assert guess["nats_per_token"] == pytest.approx(math.log(2))
