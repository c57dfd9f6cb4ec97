"""Recall: what stood next to a token earlier in the row."""

import dataclasses

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text


@dataclasses.dataclass(frozen=True)
class MQAR(Task):
    """Multi-query associative recall: k_1 v_1 ... k_N v_N, then each k, for its v.

    Arora et al. 2023, Zoology, arXiv 2312.04927. Key after key is asked for at the i-th
    of the even places after the pairs, of those left, with p_i ~ i^(power - 1).

    vocabulary: V; keys are of [1, V/2), values of [V/2, V), each once in a row.
    length: tokens of a row.
    pairs: N, and as many queries.
    power: at 1 queries are anywhere alike, near 0 most are soon after the pairs.
    filler: between the queries, "zero" or tokens of [0, V): "random".
    passes: times that the list of pairs is written, arXiv 2407.05483.
    """

    vocabulary: int = 128
    length: int = 64
    pairs: int = 8
    power: float = 0.01
    filler: str = "zero"
    passes: int = 1

    size = "pairs"
    choices = {"filler": ("zero", "random")}

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def chance(self) -> float:
        """Of a guess among the row's values."""
        return 1 / self.pairs

    def contradiction(self) -> tuple[str, str] | None:
        if self.length % 2:
            return "length", "must be even"
        if self.vocabulary <= self.length:
            return "vocabulary", f"must be above length={self.length}"
        if self.pairs > self.vocabulary // 2 - 1:
            return "pairs", f"need as many keys: {self.vocabulary // 2 - 1} there are"
        needed = 2 * self.pairs * self.passes + 2 * self.pairs
        if needed > self.length:
            return "pairs", f"and their queries need length={needed} or more"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        half = self.vocabulary // 2
        key_BxN = 1 + draws.chosen(self.pairs, half - 1)
        value_BxN = half + draws.chosen(self.pairs, self.vocabulary - half)
        told = 2 * self.pairs * self.passes
        weights = np.arange(1, (self.length - told) // 2 + 1) ** (self.power - 1.0)
        asked_BxN = told + 2 * draws.chosen(self.pairs, len(weights), weights)

        tokens_BxT = np.zeros((len(key_BxN), self.length), np.int32)
        pair_BxM = np.stack([key_BxN, value_BxN], -1).reshape(-1, 2 * self.pairs)
        tokens_BxT[:, :told] = np.tile(pair_BxM, self.passes)
        np.put_along_axis(tokens_BxT, asked_BxN, key_BxN, 1)
        if self.filler == "random":
            filler_BxT = draws.integers(self.length, self.vocabulary)
            tokens_BxT = np.where(tokens_BxT == 0, filler_BxT, tokens_BxT)
        targets_BxT = np.zeros_like(tokens_BxT)
        np.put_along_axis(targets_BxT, asked_BxN, value_BxN, 1)
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        np.put_along_axis(scored_BxT, asked_BxN, True, 1)
        return Examples(tokens_BxT, targets_BxT, scored_BxT)


@dataclasses.dataclass(frozen=True)
class Induction(Task):
    """Induction heads: ... s x ... s, for x; s is a token of its own, x any other.

    Olsson et al. 2022, arXiv 2209.11895; as a task Dao et al. 2022, H3, arXiv
    2212.14052, and Gu and Dao 2023, Mamba, arXiv 2312.00752, section 4.1.2.

    length: tokens of a row, the last of which is s.
    vocabulary: ordinary tokens.
    """

    length: int = 64
    vocabulary: int = 16

    size = "length"

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 1

    @property
    def chance(self) -> float:
        return 1 / self.vocabulary

    def contradiction(self) -> tuple[str, str] | None:
        if self.length < 3:
            return "length", "must be at least 3: s x s"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        tokens_BxT = draws.integers(self.length, self.vocabulary)
        place_Bx1 = draws.integers(1, self.length - 2)
        np.put_along_axis(tokens_BxT, place_Bx1, self.vocabulary, 1)
        tokens_BxT[:, -1] = self.vocabulary
        targets_BxT = np.zeros_like(tokens_BxT)
        targets_BxT[:, -1:] = np.take_along_axis(tokens_BxT, place_Bx1 + 1, 1)
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        scored_BxT[:, -1] = True
        return Examples(tokens_BxT, targets_BxT, scored_BxT)


@dataclasses.dataclass(frozen=True)
class Passkey(Task):
    """A key in noise: noise, m k_1 ... k_N, noise, m, for k_1 ... k_N one by one.

    Mohtashami and Jaggi 2023, arXiv 2305.16300, with noise for text. The key's depth is
    uniform; key, noise and the marker m share no token.

    length: tokens of a row, which ends with k_(N-1).
    digits: N, tokens of the key.
    symbols: what a digit can be.
    fillers: what a token of noise can be.
    """

    length: int = 64
    digits: int = 4
    symbols: int = 10
    fillers: int = 16

    size = "length"

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return self.symbols + self.fillers + 1

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def contradiction(self) -> tuple[str, str] | None:
        if self.length <= 2 * self.digits:
            return "length", f"must be above twice digits={self.digits}"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        marker, N = self.vocab_size - 1, self.digits
        key_BxN = draws.integers(N, self.symbols)
        place_Bx1 = draws.integers(1, self.length - 2 * N)
        tokens_BxT = self.symbols + draws.integers(self.length, self.fillers)
        np.put_along_axis(tokens_BxT, place_Bx1, marker, 1)
        np.put_along_axis(tokens_BxT, place_Bx1 + np.arange(1, N + 1), key_BxN, 1)
        tokens_BxT[:, -N] = marker
        tokens_BxT[:, self.length - N + 1 :] = key_BxN[:, :-1]
        targets_BxT = np.zeros_like(tokens_BxT)
        targets_BxT[:, -N:] = key_BxN
        scored_BxT = np.zeros(tokens_BxT.shape, bool)
        scored_BxT[:, -N:] = True
        return Examples(tokens_BxT, targets_BxT, scored_BxT)
