"""Batches: a pure function of the step; each token a target once in both protocols."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import Batch, TrainBatches, loader, stream_batches, window_batches
from lm.sequence import Sequence, from_segments


def numbered(n, documents=(0,)):
    """A corpus whose token i is the number i: a batch shows where it is from."""
    return SimpleNamespace(
        tokens=lambda split: np.arange(n, dtype=np.uint16),
        documents=lambda split: np.asarray(documents, np.int64),
        opened=lambda split, token_B: np.searchsorted(documents, token_B, "right"),
    )


@st.composite
def corpora(draw):
    n = draw(st.integers(2, 60))
    starts = draw(st.sets(st.integers(1, n - 1), max_size=8))
    return n, [0, *sorted(starts)]


def plain(tokens_N, documents_D, origin_B, start_B, stop_B, length):
    """lm.data.loader._batch as its definition: every token looks up its document."""
    index_BxT = start_B[:, None] + np.arange(length)
    valid_BxT = index_BxT < stop_B[:, None]
    index_BxT = np.minimum(index_BxT, len(tokens_N) - 2)
    document_BxT = np.searchsorted(documents_D, index_BxT, side="right") - 1
    reset_BxT = np.maximum(documents_D[document_BxT], origin_B[:, None])
    same_BxT = ~np.isin(index_BxT + 1, documents_D)
    segment_BxT = (document_BxT - document_BxT[:, :1] + 1) * valid_BxT
    seq = Sequence(
        segment_ids=segment_BxT.astype(np.int32),
        positions=((index_BxT - reset_BxT) * valid_BxT).astype(np.int32),
        reset=valid_BxT & (index_BxT == reset_BxT),
        valid=valid_BxT,
    )
    return Batch(
        tokens=tokens_N[index_BxT].astype(np.int32) * valid_BxT,
        targets=tokens_N[index_BxT + 1].astype(np.int32) * valid_BxT,
        weights=(valid_BxT & same_BxT).astype(np.float32),
        seq=seq,
    )


def facts(batch):
    """{name: (dtype, shape, bytes)} of every array of a batch."""
    arrays = batch._asdict() | batch.seq._asdict()
    return {
        name: (x.dtype, x.shape, x.tobytes())
        for name, x in arrays.items()
        if isinstance(x, np.ndarray)
    }


sizes = st.integers(1, 9)


@settings(max_examples=300, deadline=None)
@given(corpora(), st.data(), sizes, sizes)
def test_a_batch_is_that_of_the_plain_form(corpus, data, rows, length):
    n, documents = corpus
    draw = lambda low, high: data.draw(st.integers(low, high))
    origin = [draw(0, n - 1) for _ in range(rows)]
    start = [draw(low, n + length) for low in origin]
    stop = [draw(low, n - 1) for low in origin]
    arguments = map(np.array, (documents, origin, start, stop))
    tokens = np.random.default_rng(n).integers(0, 256, n, np.uint8)
    documents, *edges = arguments
    opened = np.searchsorted(documents, edges[1], "right")
    batch = loader._batch(tokens, documents, opened, *edges, length)
    assert facts(batch) == facts(plain(tokens, documents, *edges, length))


def check(batch, documents, fresh):
    """Facts of every batch; `fresh`: tokens at which a row starts afresh."""
    seq, valid = batch.seq, batch.seq.valid
    starts = np.union1d(documents, fresh)
    origin = starts[np.searchsorted(starts, batch.tokens, side="right") - 1]
    np.testing.assert_array_equal(seq.reset, valid & np.isin(batch.tokens, starts))
    np.testing.assert_array_equal(seq.positions, (batch.tokens - origin) * valid)
    np.testing.assert_array_equal(seq.segment_ids > 0, valid)
    opens = np.isin(batch.targets, documents)
    np.testing.assert_array_equal(batch.weights, valid & ~opens)
    np.testing.assert_array_equal(batch.targets, (batch.tokens + 1) * valid)
    for row, ids, ok in zip(batch.tokens, seq.segment_ids, valid, strict=True):
        own = np.searchsorted(documents, row[ok], side="right")
        np.testing.assert_array_equal(ids[ok], own - own[:1] + 1)
    dtypes = [batch.tokens, batch.targets, seq.segment_ids, seq.positions]
    assert {each.dtype for each in dtypes} == {np.dtype(np.int32)}
    assert batch.weights.dtype == np.float32
    assert seq.reset.dtype == valid.dtype == bool


@settings(max_examples=150, deadline=None)
@given(corpora(), sizes, sizes)
def test_windows_cover_every_token_once(corpus, context, rows):
    n, documents = corpus
    batches = list(window_batches(numbered(n, documents), "test", context, rows))
    for batch in batches:
        assert batch.tokens.shape == (rows, context)
        check(batch, documents, np.arange(0, n, context))
        same = from_segments(batch.seq.segment_ids)
        np.testing.assert_array_equal(batch.seq.positions, same.positions)
        np.testing.assert_array_equal(batch.seq.reset, same.reset)
    targets = np.concatenate([batch.targets[batch.seq.valid] for batch in batches])
    np.testing.assert_array_equal(targets, np.arange(1, n))


@settings(max_examples=150, deadline=None)
@given(corpora(), sizes, sizes)
def test_streams_cover_every_token_once_and_go_on(corpus, chunk, rows):
    n, documents = corpus
    batches = list(stream_batches(numbered(n, documents), "test", chunk, rows))
    valid = np.concatenate([batch.seq.valid for batch in batches], axis=1)
    tokens = np.concatenate([batch.tokens for batch in batches], axis=1)
    lanes = [row[ok] for row, ok in zip(tokens, valid, strict=True)]
    firsts = [lane[0] for lane in lanes if len(lane)]
    for batch in batches:
        assert batch.tokens.shape == (rows, chunk)
        check(batch, documents, firsts)
    np.testing.assert_array_equal(np.concatenate(lanes), np.arange(n - 1))
    lengths = np.array([len(lane) for lane in lanes])
    assert lengths.max() == -(-(n - 1) // rows)
    assert (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all()


def test_a_stream_goes_on_without_reset_inside_a_document():
    first, second, third = stream_batches(numbered(25, [0, 9]), "test", 4, 2)
    np.testing.assert_array_equal(first.seq.reset[:, 0], [True, True])
    np.testing.assert_array_equal(second.tokens, [[4, 5, 6, 7], [16, 17, 18, 19]])
    np.testing.assert_array_equal(second.seq.positions, [[4, 5, 6, 7]] * 2)
    np.testing.assert_array_equal(second.seq.segment_ids, [[1] * 4] * 2)
    assert not second.seq.reset.any()
    np.testing.assert_array_equal(third.seq.reset[0], [False, True, False, False])
    np.testing.assert_array_equal(third.seq.segment_ids[0], [1, 2, 2, 2])
    np.testing.assert_array_equal(third.weights[0], [0, 1, 1, 1])


def firsts(batches, steps):
    """First token of every row of every step."""
    return np.concatenate([batches(step).tokens[:, 0] for step in steps])


@pytest.mark.parametrize(
    ("n", "context", "rows"), [(101, 5, 3), (64, 7, 20), (9, 4, 1)]
)
def test_every_window_once_an_epoch(n, context, rows):
    batches = TrainBatches(numbered(n), context, rows, seed=3)
    windows = (n - 1) // context
    assert batches.steps_per_epoch == windows / rows
    epochs = firsts(batches, range(-(-3 * windows // rows)))[: 3 * windows]
    epochs = epochs.reshape(3, windows)
    whole = np.arange(windows) * context
    np.testing.assert_array_equal(np.sort(epochs), [whole] * 3)
    if windows > 4:
        assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_training_rows_start_afresh_and_mask_other_documents():
    documents = [0, 3, 10, 11, 37]
    batches = TrainBatches(numbered(64, documents), 7, 4, seed=0)
    for step in range(9):
        batch = batches(step)
        check(batch, documents, np.arange(0, 64, 7))
        assert batch.seq.valid.all()
        assert batch.seq.reset[:, 0].all()
        same = from_segments(batch.seq.segment_ids)
        np.testing.assert_array_equal(batch.seq.positions, same.positions)
        np.testing.assert_array_equal(batch.seq.reset, same.reset)


def test_a_batch_depends_on_seed_and_step_alone():
    corpus = numbered(1001, [0, 100, 555])
    forward = TrainBatches(corpus, 10, 8, seed=5)
    expected = [forward(step) for step in range(40)]
    backward = TrainBatches(corpus, 10, 8, seed=5)
    for step in (39, 3, 3, 12, 0, 39, 25):
        for one, other in ((forward, step), (backward, step)):
            found = one(other)
            for key in ("tokens", "targets", "weights"):
                np.testing.assert_array_equal(
                    getattr(found, key), getattr(expected[step], key)
                )
            for key in ("segment_ids", "positions", "reset", "valid"):
                np.testing.assert_array_equal(
                    getattr(found.seq, key), getattr(expected[step].seq, key)
                )


def test_seeds_share_no_epoch():
    epochs = set()
    for seed in range(4):
        order = firsts(TrainBatches(numbered(301), 10, 30, seed), range(4))
        epochs |= {tuple(epoch) for epoch in order.reshape(4, 30)}
    assert len(epochs) == 16


def test_the_order_of_a_seed_is_pinned():
    """Another order would make every earlier result another experiment."""
    order = firsts(TrainBatches(numbered(13), 1, 12, seed=0), range(2))
    assert order[:12].tolist() == [5, 8, 11, 7, 4, 2, 1, 0, 3, 6, 10, 9]
    assert order[12:].tolist() == [6, 11, 4, 8, 0, 7, 10, 2, 1, 5, 3, 9]


def test_too_few_tokens_for_a_window():
    with pytest.raises(ValueError, match="context=8 needs 9 training tokens.* are 8"):
        TrainBatches(numbered(8), 8, 1, seed=0)
