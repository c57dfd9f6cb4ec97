"""Copying: a string, a part of it, or the tokens of it that are not noise."""

import dataclasses

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text


@dataclasses.dataclass(frozen=True)
class Copying(Task):
    """$ s_1 ... s_N | s_1 ... s_N, of which the second copy is predicted.

    Jelassi et al. 2024, "Repeat after me", arXiv 2402.01032. The end of the copy is a
    target too, which is not scored.

    length: N of the longest string.
    shortest: N of the shortest, all in between alike; by default all are of `length`.
    vocabulary: letters; then $, |, the end and padding.
    """

    length: int = 12
    shortest: int | None = None
    vocabulary: int = 26

    size = "length"
    training_only = ("examples", "shortest")

    @property
    def context(self) -> int:
        return 2 * self.length + 2

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 4

    @property
    def chance(self) -> float:
        return 1 / self.vocabulary

    def contradiction(self) -> tuple[str, str] | None:
        if self.shortest is not None and self.shortest > self.length:
            return "shortest", f"must be at most length={self.length}"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        begin, separator, end, pad = self.vocabulary + np.arange(4)
        letter_BxN = draws.integers(self.length, self.vocabulary)
        n_Bx1 = np.full((len(letter_BxN), 1), self.length)
        if self.shortest is not None:
            lengths = self.length - self.shortest + 1
            n_Bx1 = self.shortest + draws.integers(1, lengths)
        t_T = np.arange(self.context + 1)
        of_BxT = np.where(t_T <= n_Bx1, t_T - 1, t_T - n_Bx1 - 2)
        copy_BxT = np.take_along_axis(letter_BxN, of_BxT.clip(0, self.length - 1), 1)
        copy_BxT[:, 0] = begin
        copy_BxT[t_T == n_Bx1 + 1] = separator
        copy_BxT[t_T == 2 * n_Bx1 + 2] = end
        copy_BxT[t_T > 2 * n_Bx1 + 2] = pad
        scored_BxT = (t_T > n_Bx1) & (t_T <= 2 * n_Bx1)
        return Examples(copy_BxT[:, :-1], copy_BxT[:, 1:], scored_BxT[:, :-1])


@dataclasses.dataclass(frozen=True)
class NgramLookup(Task):
    """What follows an n-gram in a string: $ string | n-gram, or $ n-gram | string |.

    Jelassi et al. 2024, arXiv 2402.01032. String and n-gram are drawn together, uniform
    of those in which it occurs once.

    length: letters of the string.
    n: letters of the n-gram.
    answer: letters predicted, one by one.
    query: the n-gram comes after the string, "suffix", or before it, "prefix": then
      what to look for is known while the string is read.
    vocabulary: letters; then $ and |.
    """

    length: int = 16
    n: int = 3
    answer: int = 3
    query: str = "suffix"
    vocabulary: int = 26

    size = "length"
    choices = {"query": ("suffix", "prefix")}

    @property
    def context(self) -> int:
        separators = 1 if self.query == "suffix" else 2
        return self.length + self.n + self.answer + separators

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 2

    @property
    def chance(self) -> float:
        return 1 / self.vocabulary

    def contradiction(self) -> tuple[str, str] | None:
        if self.length < self.n + self.answer:
            return "length", f"must hold n={self.n} and answer={self.answer} letters"
        if self.vocabulary**self.n < self.length:
            grams = f"{self.vocabulary}^n = {self.vocabulary**self.n} n-grams"
            return "n", f"makes {grams}, too few for one to be unique in the string"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        drawn = self._drawn(draws)
        while not drawn[-1].all():
            again = zip(drawn, self._drawn(draws), strict=True)
            drawn = [np.where(drawn[-1], kept, new) for kept, new in again]
        # Nothing is drawn from here on: how often it was is not the row's own.
        letter_BxN, place_Bx1, _ = drawn
        place_BxM = place_Bx1 + np.arange(self.n + self.answer)
        part_BxM = np.take_along_axis(letter_BxN, place_BxM, 1)
        gram_BxM, answer_BxM = part_BxM[:, : self.n], part_BxM[:, self.n :]
        begin_Bx1 = np.full_like(place_Bx1, self.vocabulary)
        separator_Bx1 = begin_Bx1 + 1
        if self.query == "suffix":
            asked = (letter_BxN, separator_Bx1, gram_BxM)
        else:
            asked = (gram_BxM, separator_Bx1, letter_BxN, separator_Bx1)
        row_BxT = np.concatenate([begin_Bx1, *asked, answer_BxM], 1)
        scored_BxT = np.zeros((len(row_BxT), self.context), bool)
        scored_BxT[:, -self.answer :] = True
        return Examples(row_BxT[:, :-1], row_BxT[:, 1:], scored_BxT)

    def _drawn(self, draws: Draws):
        """letter_BxN, place_Bx1 of an n-gram and once_Bx1, whether it has no other."""
        letter_BxN = draws.integers(self.length, self.vocabulary)
        place_Bx1 = draws.integers(1, self.length - self.n - self.answer + 1)
        gram_BxPxN = np.lib.stride_tricks.sliding_window_view(letter_BxN, self.n, 1)
        asked_Bx1xN = np.take_along_axis(gram_BxPxN, place_Bx1[:, :, None], 1)
        same_BxP = (gram_BxPxN == asked_Bx1xN).all(-1)
        return letter_BxN, place_Bx1, same_BxP.sum(1, keepdims=True) == 1


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Task):
    """Tokens at random places in noise, then as many markers, for them in their order.

    Gu and Dao 2023, Mamba, arXiv 2312.00752, section 4.1.1: what was predicted is not
    read.

    length: places before the markers.
    items: of them, those with a token.
    vocabulary: tokens; then noise and the marker.
    """

    length: int = 32
    items: int = 4
    vocabulary: int = 14

    size = "length"

    @property
    def context(self) -> int:
        return self.length + self.items

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 2

    @property
    def chance(self) -> float:
        return 1 / self.vocabulary

    def contradiction(self) -> tuple[str, str] | None:
        if self.items > self.length:
            return "items", f"must be at most length={self.length}"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        item_BxN = draws.integers(self.items, self.vocabulary)
        place_BxN = np.sort(draws.chosen(self.items, self.length), axis=1)
        tokens_BxT = np.full((len(item_BxN), self.context), self.vocabulary, np.int32)
        np.put_along_axis(tokens_BxT, place_BxN, item_BxN, 1)
        tokens_BxT[:, self.length :] = self.vocabulary + 1
        targets_BxT = np.zeros_like(tokens_BxT)
        targets_BxT[:, self.length :] = item_BxN
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        scored_BxT[:, self.length :] = True
        return Examples(tokens_BxT, targets_BxT, scored_BxT)
