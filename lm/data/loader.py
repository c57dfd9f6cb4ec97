"""Batches: a pure function of the step in training, two protocols in evaluation."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lm.data.tokens import Corpus
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

        self._tokens = corpus.tokens("train")
        self._documents = corpus.documents("train")
        self._context = context
        self.windows = (len(self._tokens) - 1) // context
        if self.windows < 1:
            raise ConfigError(
                f"context={context} needs {context + 1} training tokens and there are "
                f"{len(self._tokens)}: lower data.context or give a larger file"
            )
        self.steps_per_epoch: float = self.windows / rows
        # Grain shuffles epoch e with seed + e: unmixed, seed 0's second epoch would be
        # seed 1's first.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        windows = grain.MapDataset.range(self.windows)
        self._order = windows.shuffle(seed=mixed).repeat().batch(rows)

    def __call__(self, step: int) -> Batch:
        """Batch of a step >= 0, whatever was asked for before."""
        start_B = self._order[step] * self._context
        stop_B = start_B + self._context
        return _batch(
            self._tokens, self._documents, start_B, start_B, stop_B, self._context
        )


def window_batches(
    corpus: Corpus, split: str, context: int, rows: int
) -> Iterator[Batch]:
    """Windows in order, each from a fresh state; one shape, padded at the end.

    Every token of the split but the first is a target once.
    """
    tokens, documents = corpus.tokens(split), corpus.documents(split)
    inputs = len(tokens) - 1
    for first in range(0, inputs, rows * context):
        start_B = first + np.arange(rows) * context
        stop_B = np.minimum(start_B + context, inputs)
        yield _batch(tokens, documents, start_B, start_B, stop_B, context)


def stream_batches(
    corpus: Corpus, split: str, chunk: int, rows: int
) -> Iterator[Batch]:
    """Row r of each batch goes on where row r of the one before ended.

    A row reads one contiguous part of the split, afresh at its start and at documents.
    Its last target is the first token of the next row's part, so that here too every
    token of the split but the first is a target once. One shape, padded at the end.
    """
    tokens, documents = corpus.tokens(split), corpus.documents(split)
    inputs = len(tokens) - 1
    part = -(-inputs // rows)
    origin_B = np.arange(rows) * part
    stop_B = np.minimum(origin_B + part, inputs)
    for first in range(0, part, chunk):
        start_B = origin_B + first
        yield _batch(tokens, documents, origin_B, start_B, stop_B, chunk)


def _batch(tokens_N, documents_D, origin_B, start_B, stop_B, length: int) -> Batch:
    """Batch whose row r reads tokens start[r] up to stop[r], padded to `length`.

    origin[r] <= start[r] is where the state of row r started afresh.
    """
    index_BxT = start_B[:, None] + np.arange(length)
    valid_BxT = index_BxT < stop_B[:, None]
    index_BxT = np.minimum(index_BxT, len(tokens_N) - 2)
    document_BxT = np.searchsorted(documents_D, index_BxT, side="right") - 1
    reset_BxT = np.maximum(documents_D[document_BxT], origin_B[:, None])
    next_BxT = documents_D[np.minimum(document_BxT + 1, len(documents_D) - 1)]
    same_BxT = index_BxT + 1 != next_BxT  # in the last document next is its own start
    tokens_BxT = tokens_N[index_BxT].astype(np.int32)
    targets_BxT = tokens_N[index_BxT + 1].astype(np.int32)
    seq = Sequence(
        segment_ids=((document_BxT - document_BxT[:, :1] + 1) * valid_BxT).astype(
            np.int32
        ),
        positions=((index_BxT - reset_BxT) * valid_BxT).astype(np.int32),
        reset=valid_BxT & (index_BxT == reset_BxT),
        valid=valid_BxT,
    )
    return Batch(
        tokens=tokens_BxT * valid_BxT,
        targets=targets_BxT * valid_BxT,
        weights=(valid_BxT & same_BxT).astype(np.float32),
        seq=seq,
    )
