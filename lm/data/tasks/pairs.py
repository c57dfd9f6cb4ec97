"""Text to text: a source is read and its target written, scored alone."""

import dataclasses

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text
from lm.errors import ConfigError

METRICS = ("none", "exact", "bleu", "rouge", "f1")


@dataclasses.dataclass(frozen=True)
class TextToText(Task):
    """Rows `source TAB target LF` of a corpus of pairs, for the target and its LF.

    Sutskever et al. 2014, arXiv 1409.3215, by one network that reads both sides, as in
    Raffel et al. 2020, arXiv 1910.10683 section 3.2.1. Training takes the pairs of its
    split in an order drawn anew each epoch; tests of one `length` have the same pairs.

    length: tokens of a row; pairs that are longer are left out, and counted.
    sources: "own", or "other": a control, each target after another pair's source.
    metric: what targets are worth that a test's model writes by itself, greedily:
      "bleu", "rouge" (ROUGE-L) or "f1" (SQuAD's); "exact" needs no writing, as the
      likeliest tokens are all right if and only if the likeliest answer is.
    """

    held_out: int = 500
    length: int = 128
    sources: str = "own"
    metric: str = "none"

    size = "length"
    reads_text = True
    reads_pairs = True
    choices = {"sources": ("own", "other"), "metric": METRICS}

    @property
    def context(self) -> int:
        return self.length

    @property
    def chance(self) -> None:
        """Text is not guessed."""

    @property
    def writes(self) -> bool:
        return self.metric not in ("none", "exact") and self.sources == "own"

    @property
    def figures(self) -> tuple[str, ...]:
        return ("bits_per_byte", self.metric) if self.writes else ("bits_per_byte",)

    def contradiction(self) -> tuple[str, str] | None:
        if self.length < 2:
            return "length", "must be at least 2: a source and a target"
        if self.examples is not None:
            return "examples", "is the number of pairs: cap it by data.train_bytes"

    def fitting(self, text: Text) -> np.ndarray:
        """int64 [P, 2]: start and stop of the pairs of a row's length at most.

        The first and the last of a split may have been cut, and are none of them.
        """
        stops_D = np.append(text.starts_D[1:], len(text.tokens_N))
        spans_Px2 = np.stack([text.starts_D, stops_D], 1)[1:-1]
        return spans_Px2[spans_Px2[:, 1] - spans_Px2[:, 0] <= self.length + 1]

    def check(self, text: Text) -> None:
        """ConfigError unless the second document, which is whole, is a pair."""
        start, stop, *_ = [*text.starts_D[1:3], len(text.tokens_N), len(text.tokens_N)]
        self._parts(text, start, stop)

    def rows_of(self, text: Text) -> int:
        return len(self.fitting(text))

    def make(self, draws: Draws, text: Text | None) -> Examples:
        spans_Px2 = self.fitting(text)
        spans_Bx2 = spans_Px2[draws.permuted(len(spans_Px2))]
        others_Bx2 = spans_Bx2
        if self.sources == "other":
            others_Bx2 = spans_Px2[draws.permuted(len(spans_Px2), ahead=1)]
        tokens_BxT = np.zeros((len(spans_Bx2), self.length + 1), np.int32)
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        for b, (span, other) in enumerate(zip(spans_Bx2, others_Bx2, strict=True)):
            source, target = self._parts(text, *span)
            if self.sources == "other":
                source, _ = self._parts(text, *other)
                room = self.length + 1 - len(target)
                source = source[len(source) - min(len(source), room) :]
            n, whole = len(source), len(source) + len(target)
            tokens_BxT[b, :whole] = np.concatenate([source, target])
            scored_BxT[b, n - 1 : whole - 1] = True
        return Examples(tokens_BxT[:, :-1], tokens_BxT[:, 1:], scored_BxT[:, :-1])

    @staticmethod
    def _parts(text: Text, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(source with its TAB, target with its LF) of a document."""
        ids = text.tokens_N[start:stop]
        (between,) = np.nonzero(ids == text.between)
        if len(between) != 1 or ids[-1] != text.end:
            raise ConfigError(
                "data.task.kind='text_to_text' reads pairs, and a document of "
                "data.corpus is none: take kjv_bbe, or give data.source and "
                "data.target of a set of rows"
            )
        return ids[: between[0] + 1], ids[between[0] + 1 :]
