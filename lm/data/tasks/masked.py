"""Masked language modelling: BERT's objective as a task that reads text."""

import dataclasses

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text


@dataclasses.dataclass(frozen=True)
class Masked(Task):
    """Text some of whose tokens are to be told from the others.

    Devlin et al. 2018, arXiv 1810.04805 section 3.1: of the tokens that are asked for
    80 % are a mark, 10 % another token, 10 % themselves.

    length: tokens of a row, from anywhere in the text.
    rate: of all tokens, those that are asked for.
    words: "whole" asks for all tokens of a word or for none, words in drawn order while
      the next fits, and at least one; "parts" for tokens by themselves.
    """

    length: int = 128
    rate: float = 0.15
    words: str = "whole"

    size = "length"
    reads_text = True
    marks = 1
    both_sides = True
    choices = {"words": ("whole", "parts")}

    @property
    def context(self) -> int:
        return self.length

    @property
    def chance(self) -> None:
        """Text is not guessed."""

    def contradiction(self) -> tuple[str, str] | None:
        if not 0 < self.rate < 1:
            return "rate", "must be between 0 and 1"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        targets_BxT = text.pieces(draws, self.length, "length")
        opens_BxT = np.ones(targets_BxT.shape, bool)
        if self.words == "whole":
            opens_BxT[:, 1:] = text.opens_V[targets_BxT[:, 1:]]
            opens_BxT[:, 1:] |= text.closes_V[targets_BxT[:, :-1]]
        chosen_BxT = self._chosen(draws.uniform(self.length), opens_BxT)
        mark_BxT = draws.uniform(self.length)
        other_BxT = draws.integers(self.length, text.vocab_size)
        tokens_BxT = np.where(mark_BxT < 0.9, other_BxT, targets_BxT)
        tokens_BxT = np.where(mark_BxT < 0.8, text.vocab_size, tokens_BxT)
        tokens_BxT = np.where(chosen_BxT, tokens_BxT, targets_BxT).astype(np.int32)
        return Examples(tokens_BxT, targets_BxT, chosen_BxT)

    def _chosen(self, clock_BxT, opens_BxT):
        """Words by their first token's clock, while their tokens are few enough."""
        B, T = opens_BxT.shape
        word_BxT = np.cumsum(opens_BxT, 1) - 1
        row_BxT = np.broadcast_to(np.arange(B)[:, None], (B, T))
        size_BxW = np.zeros((B, T), np.int64)
        np.add.at(size_BxW, (row_BxT, word_BxT), 1)
        clock_BxW = np.full((B, T), np.inf)
        first = np.nonzero(opens_BxT)
        clock_BxW[first[0], word_BxT[first]] = clock_BxT[first]
        order_BxW = np.argsort(clock_BxW, 1)
        total_BxW = np.cumsum(np.take_along_axis(size_BxW, order_BxW, 1), 1)
        taken_BxW = total_BxW <= max(1, round(self.rate * T))
        taken_BxW[:, 0] = True
        word_taken_BxW = np.zeros((B, T), bool)
        np.put_along_axis(word_taken_BxW, order_BxW, taken_BxW, 1)
        return np.take_along_axis(word_taken_BxW, word_BxT, 1)
