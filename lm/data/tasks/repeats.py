"""Repeats: text that is written twice, as random tokens are in arXiv 2209.11895."""

import dataclasses

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text


@dataclasses.dataclass(frozen=True)
class Repeats(Task):
    """x_1 ... x_N x_1 ... x_N of the text, from anywhere in it, for the next token.

    segment: N.
    scored: targets of the "first" copy, of the "second" without its first token, which
      no token before it announces, or "all".
    """

    segment: int = 64
    scored: str = "second"

    size = "segment"
    reads_text = True
    choices = {"scored": ("all", "first", "second")}

    @property
    def context(self) -> int:
        return 2 * self.segment

    @property
    def chance(self) -> None:
        """Text is not guessed."""

    def contradiction(self) -> tuple[str, str] | None:
        if self.segment < 2:
            return "segment", "must be at least 2: a token and the next"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        segment_BxN = text.pieces(draws, self.segment, "segment")
        tokens_BxT = np.tile(segment_BxN, 2)
        first, last = {
            "all": (0, 2 * self.segment - 1),
            "first": (0, self.segment - 1),
            "second": (self.segment, 2 * self.segment - 1),
        }[self.scored]
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        scored_BxT[:, first:last] = True
        return Examples(tokens_BxT, np.roll(tokens_BxT, -1, 1), scored_BxT)
