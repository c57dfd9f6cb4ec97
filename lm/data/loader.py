"""Batches: a pure function of the step in training, two protocols in evaluation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lm.data.corpus import Corpus
from lm.errors import ConfigError
from lm.sequence import Sequence


class Batch(NamedTuple):
    """tokens, targets: int32 [B, T]; weights: float32 [B, T]; seq: what they are.

    A weight is 0 where the target is padding or opens another document, else 1.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    seq: Sequence


class TrainBatches:
    """`self(step)`: windows of `context` + 1 tokens, in a new order every epoch.

    Windows overlap by one token, the last partial one is left out, and each is used
    once an epoch. A batch may hold the end of one epoch and the start of the next, so
    `steps_per_epoch`, windows / rows, is a float.
    """

    def __init__(self, corpus: Corpus, context: int, rows: int, seed: int):
        import grain  # imports jax, which a parent of workers must not

        self._corpus, self._context = corpus, context
        self.windows = _windows(corpus, context)
        self.steps_per_epoch: float = self.windows / rows
        # Grain shuffles epoch e with seed + e: unmixed, seed 0's second epoch would be
        # seed 1's first.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        windows = grain.MapDataset.range(self.windows)
        self._order = windows.shuffle(seed=mixed).repeat().batch(rows)

    def __call__(self, step: int) -> Batch:
        """Batch of a step >= 0, whatever was asked for before."""
        start_B = self._order[step] * self._context
        return _batch(
            self._corpus.tokens("train"),
            self._corpus.documents("train"),
            self._corpus.opened("train", start_B),
            start_B,
            start_B,
            start_B + self._context,
            self._context,
        )


class TrainStreams:
    """`self(step)`: row r goes on where row r of the batch before ended.

    The windows of TrainBatches lie on a ring in the order of the text. In epoch e it is
    cut where (seed, e) says, and each row reads a contiguous part of windows // rows
    windows: `steps_per_epoch`. A row starts afresh at its part, at the first window of
    the text and at documents. The windows % rows last of an epoch are left out, others
    in every epoch.
    """

    def __init__(self, corpus: Corpus, context: int, rows: int, seed: int):
        self._corpus, self._context, self._seed = corpus, context, seed
        self.windows = _windows(corpus, context)
        if self.windows < rows:
            raise ConfigError(
                f"train.state='carry' gives each row of a batch a part of the text, "
                f"and {self.windows} windows of data.context={context} training tokens "
                f"are too few for {rows} rows: lower train.batch_tokens or "
                "data.context, or give a larger file"
            )
        self.steps_per_epoch: int = self.windows // rows
        self._row_B = np.arange(rows)

    def __call__(self, step: int) -> Batch:
        """Batch of a step >= 0, whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        drawn = np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)
        first_B = int(drawn[0] % self.windows) + self._row_B * self.steps_per_epoch
        window_B = first_B + place
        passed_B = window_B // self.windows > first_B // self.windows  # the text's end
        origin_B = np.where(passed_B, 0, first_B % self.windows) * self._context
        start_B = window_B % self.windows * self._context
        return _batch(
            self._corpus.tokens("train"),
            self._corpus.documents("train"),
            self._corpus.opened("train", start_B),
            origin_B,
            start_B,
            start_B + self._context,
            self._context,
        )


# train.state -> the batches of training.
TRAIN_BATCHES: dict[str, Callable] = {"reset": TrainBatches, "carry": TrainStreams}


def _windows(corpus: Corpus, context: int) -> int:
    """Windows of `context` + 1 training tokens that overlap by one; at least 1."""
    tokens = len(corpus.tokens("train"))
    if tokens <= context:
        raise ConfigError(
            f"context={context} needs {context + 1} training tokens and there are "
            f"{tokens}: lower data.context or give a larger file"
        )
    return (tokens - 1) // context


def window_batches(
    corpus: Corpus, split: str, context: int, rows: int
) -> Iterator[Batch]:
    """Windows in order, each from a fresh state; one shape, padded at the end.

    Every token of the split but the first is a target once.
    """
    documents, inputs = corpus.documents(split), len(corpus.tokens(split)) - 1
    for first in range(0, inputs, rows * context):
        start_B = first + np.arange(rows) * context
        stop_B = np.minimum(start_B + context, inputs)
        tokens = corpus.tokens(split)
        opened_B = np.searchsorted(documents, start_B, "right")
        yield _batch(tokens, documents, opened_B, start_B, start_B, stop_B, context)


def stream_batches(
    corpus: Corpus, split: str, chunk: int, rows: int
) -> Iterator[Batch]:
    """Row r of each batch goes on where row r of the one before ended.

    A row reads one contiguous part of the split, afresh at its start and at documents.
    Its last target is the first token of the next row's part, so that here too every
    token of the split but the first is a target once. One shape, padded at the end.
    """
    documents, inputs = corpus.documents(split), len(corpus.tokens(split)) - 1
    part = -(-inputs // rows)
    origin_B = np.arange(rows) * part
    stop_B = np.minimum(origin_B + part, inputs)
    for first in range(0, part, chunk):
        tokens, start_B = corpus.tokens(split), origin_B + first
        opened_B = np.searchsorted(documents, start_B, "right")
        yield _batch(tokens, documents, opened_B, origin_B, start_B, stop_B, chunk)


def _batch(
    tokens_N, documents_D, opened_B, origin_B, start_B, stop_B, length: int
) -> Batch:
    """Batch whose row r reads tokens start[r] up to stop[r], padded to `length`.

    origin[r] <= start[r] is where the state of row r started afresh; opened[r]
    documents start at or before start[r].
    """
    B = len(start_B)
    stop_B = np.minimum(stop_B, start_B + length)
    valid_BxT = np.arange(length) < (stop_B - start_B)[:, None]
    text_BxT = np.zeros((B, length + 1), np.int32)  # and the last target
    for row_T, start, stop in zip(text_BxT, start_B, stop_B, strict=True):
        if start < stop:
            row_T[: stop + 1 - start] = tokens_N[start : stop + 1]

    # Documents that open in a row after its first token, or with its last target.
    near = [documents_D[first : first + length + 1] for first in opened_B]
    opening = [
        d[: np.searchsorted(d, n, "right")] for d, n in zip(near, stop_B, strict=True)
    ]
    row_D = np.repeat(np.arange(B), [len(found) for found in opening])
    place_D = np.concatenate(opening) - start_B[row_D]
    opens_BxT = np.zeros((B, length + 1), bool)
    opens_BxT[row_D, place_D] = True

    began_BxT = np.empty((B, length + 1), np.int32)  # the last reset, from row's start
    began_BxT[:] = (np.maximum(documents_D[opened_B - 1], origin_B) - start_B)[:, None]
    began_BxT[row_D, place_D] = place_D
    began_BxT = np.maximum.accumulate(began_BxT[:, :-1], axis=1)
    reset_BxT = opens_BxT[:, :-1] & valid_BxT
    reset_BxT[:, 0] = (began_BxT[:, 0] == 0) & valid_BxT[:, 0]
    document_BxT = 1 + np.cumsum(opens_BxT[:, :-1], axis=1, dtype=np.int32)
    seq = Sequence(
        segment_ids=document_BxT * valid_BxT,
        positions=(np.arange(length, dtype=np.int32) - began_BxT) * valid_BxT,
        reset=reset_BxT,
        valid=valid_BxT,
    )
    return Batch(
        tokens=text_BxT[:, :-1] * valid_BxT,
        targets=text_BxT[:, 1:] * valid_BxT,
        weights=(valid_BxT & ~opens_BxT[:, 1:]).astype(np.float32),
        seq=seq,
    )
