"""What a mixer is told about a row besides its values: documents, resets, padding."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Sequence(NamedTuple):
    """Per-token facts, each [B, T]; `layer` and `key` are set by the model alone.

    Attributes:
      segment_ids: int32, 0 = padding, 1.. = documents in order of appearance.
      positions: int32, tokens since the last reset.
      reset: bool, the state becomes the initial state before this token. Only on a
        valid token that opens a document, or a row that starts afresh.
      valid: bool, False = the token is an identity on the state.
      layer: absolute index of the layer (traced inside the scan over layers).
      key: the key that draws are folded from: of parameters at initialisation, of
        dropout in training; None: nothing is drawn.
      step_key: in training the key of what is drawn once for all rows.
      types: int32, which of model.token_types a token is of; None: all of the first.
    """

    segment_ids: Any
    positions: Any
    reset: Any
    valid: Any
    layer: Any = None
    key: Any = None
    step_key: Any = None
    types: Any = None


def from_segments(segment_ids_BxT, positions_BxT=None, reset_BxT=None) -> Sequence:
    """Sequence of rows that start afresh, from segment ids (0 = padding).

    Pass `positions` and `reset` for rows that go on from an earlier call.
    """
    segment_ids_BxT = np.asarray(segment_ids_BxT, np.int32)
    valid_BxT = segment_ids_BxT > 0
    if reset_BxT is None:
        before_BxT = np.maximum.accumulate(segment_ids_BxT, axis=1)
        before_BxT = np.pad(before_BxT, ((0, 0), (1, 0)))[:, :-1]
        reset_BxT = valid_BxT & (segment_ids_BxT != before_BxT)
    if positions_BxT is None:
        count_BxT = np.cumsum(valid_BxT, axis=1)
        start_BxT = np.maximum.accumulate(np.where(reset_BxT, count_BxT, 0), axis=1)
        positions_BxT = np.where(valid_BxT, count_BxT - start_BxT, 0)
    return Sequence(
        segment_ids_BxT,
        np.asarray(positions_BxT, np.int32),
        np.asarray(reset_BxT, bool),
        valid_BxT,
    )


def padded(texts: Iterable[Any], width: int, rows: int | None = None):
    """(ids, which of them are no padding), int32 and bool [B, width], of texts of any
    length up to `width`; rows beyond theirs, up to `rows`, are empty."""
    texts = list(texts)
    lengths_B = np.zeros(rows or len(texts), np.int32)
    lengths_B[: len(texts)] = [len(text) for text in texts]
    valid_BxT = np.arange(width) < lengths_B[:, None]
    ids_BxT = np.zeros(valid_BxT.shape, np.int32)
    ids_BxT[valid_BxT] = np.concatenate(texts)
    return ids_BxT, valid_BxT


def full(batch: int, length: int, start: int = 0) -> Sequence:
    """`length` valid tokens of one document; `start` > 0 goes on from a call before."""
    positions_BxT = np.broadcast_to(np.arange(start, start + length), (batch, length))
    return from_segments(np.ones((batch, length)), positions_BxT, positions_BxT == 0)
