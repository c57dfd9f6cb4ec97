"""Batches whose rows go on: parts of the text, a pure function of the step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import TrainStreams
from lm.errors import ConfigError
from tests.test_batches import check, corpora, facts, numbered, sizes


@st.composite
def streams(draw):
    """(TrainStreams over a numbered corpus, its documents, rows, context)."""
    n, documents = draw(corpora())
    context = draw(st.integers(1, min(5, n - 1)))
    rows = draw(st.integers(1, min(6, (n - 1) // context)))
    seed = draw(st.integers(0, 2**31 - 1))
    return TrainStreams(numbered(n, documents), context, rows, seed), documents


def lanes(batches, epoch: int):
    """Tokens of one epoch, [rows, tokens of a part]."""
    steps = batches.steps_per_epoch
    rows = [batches(step).tokens for step in range(epoch * steps, (epoch + 1) * steps)]
    return np.concatenate(rows, axis=1)


@settings(max_examples=200, deadline=None)
@given(streams(), st.integers(0, 3))
def test_rows_go_on_and_no_token_is_a_target_twice_in_an_epoch(case, epoch):
    batches, documents = case
    text = lanes(batches, epoch)
    rows, part = text.shape
    context = part // batches.steps_per_epoch
    end = batches.windows * context  # inputs of the split; the last partial is left out
    np.testing.assert_array_equal(text, (text[:, :1] + np.arange(part)) % end)
    # A row goes on where the one before it ends, in the ring that the text makes.
    np.testing.assert_array_equal(text[1:, 0], (text[:-1, -1] + 1) % end)
    assert len(np.unique(text)) == text.size > end - rows * context
    assert (text[:, 0] % context == 0).all()
    for place in range(batches.steps_per_epoch):
        batch = batches(epoch * batches.steps_per_epoch + place)
        assert batch.seq.valid.all()
        for row in range(rows):
            alone = type(batch)(
                *(x[row : row + 1] for x in batch[:3]),
                type(batch.seq)(*(x[row : row + 1] for x in batch.seq[:4])),
            )
            first = text[row, 0] if alone.tokens[0, 0] >= text[row, 0] else 0
            check(alone, documents, [first])


@settings(max_examples=100, deadline=None)
@given(streams(), st.lists(sizes, min_size=2, max_size=6))
def test_a_batch_depends_on_the_step_alone(case, steps):
    batches, _ = case
    before = [facts(batches(step)) for step in steps]
    after = [facts(batches(step)) for step in reversed(steps)]
    assert before == after[::-1]


def test_seeds_and_epochs_cut_the_text_elsewhere_and_so_leave_out_other_tokens():
    corpus = numbered(10_000)
    cuts, left = set(), []
    for seed in range(4):
        batches = TrainStreams(corpus, 10, 13, seed)
        for epoch in range(4):
            text = lanes(batches, epoch)
            cuts.add(int(text[0, 0]))
            left.append(np.setdiff1d(np.arange(9_990), text))
    assert len(cuts) == 16
    assert {len(tokens) for tokens in left} == {999 % 13 * 10}
    assert len({tuple(tokens) for tokens in left}) == 16


def test_the_order_of_a_seed_is_pinned():
    """Another order would make every earlier result another experiment."""
    batches = TrainStreams(numbered(26), 2, 3, seed=0)
    assert batches.steps_per_epoch == 4
    found = [batches(step).tokens[:, 0].tolist() for step in range(6)]
    assert found[:4] == [[4, 12, 20], [6, 14, 22], [8, 16, 0], [10, 18, 2]]
    assert found[4:] == [[0, 8, 16], [2, 10, 18]]


def test_a_row_without_a_window_is_refused():
    with pytest.raises(ConfigError, match="train.state='carry' .* 3 windows .* 4 rows"):
        TrainStreams(numbered(31), 10, 4, seed=0)
    with pytest.raises(ConfigError, match="context=8 needs 9 training tokens"):
        TrainStreams(numbered(8), 8, 1, seed=0)
