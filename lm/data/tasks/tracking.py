"""State tracking: at each place the state of an automaton that reads the row."""

import dataclasses
import functools
import itertools

import numpy as np

from lm.data.tasks.base import Draws, Examples, Task, Text


@dataclasses.dataclass(frozen=True)
class Parity(Task):
    """y_t = x_1 + ... + x_t mod 2, of random bits.

    Grazzi et al. 2024, arXiv 2411.12537, section 4, here with every place predicted.

    length: tokens of a row.
    """

    length: int = 20

    size = "length"
    running = True

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 0.5

    def make(self, draws: Draws, text: Text | None) -> Examples:
        bit_BxT = draws.integers(self.length, 2)
        parity_BxT = np.cumsum(bit_BxT, axis=1, dtype=np.int32) % 2
        return Examples(bit_BxT, parity_BxT, np.ones(bit_BxT.shape, bool))


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(Task):
    """n_1 op n_2 op n_3 ..., for the value so far mod m at every number.

    Deletang et al. 2022, arXiv 2207.02098, without brackets; there, and in arXiv
    2411.12537, only the last value is predicted, and products come before sums.

    length: tokens of a row, odd: it begins and ends with a number.
    modulus: m; numbers are below it, then +, - and *.
    order: of the operations, "left" to right or by "precedence" of *.
    """

    length: int = 21
    modulus: int = 5
    order: str = "left"

    size = "length"
    running = True
    choices = {"order": ("left", "precedence")}

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return self.modulus + 3

    @property
    def chance(self) -> float:
        """As published; 0 is likelier: of "left", 0.27 of the values of modulus 5."""
        return 1 / self.modulus

    def contradiction(self) -> tuple[str, str] | None:
        if self.length % 2 == 0:
            return "length", "must be odd: a number between and around operations"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        number_T = np.arange(self.length) % 2 == 0
        high_T = np.where(number_T, self.modulus, 3)
        tokens_BxT = (draws.uniform(self.length) * high_T).astype(np.int32)
        tokens_BxT[:, ~number_T] += self.modulus
        targets_BxT = np.zeros_like(tokens_BxT)
        # The value is closed + last, and only `last` is still open to a product.
        closed_B, last_B = np.zeros_like(tokens_BxT[:, 0]), tokens_BxT[:, 0]
        targets_BxT[:, 0] = last_B
        for t in range(2, self.length, 2):
            operation_B, n_B = tokens_BxT[:, t - 1] - self.modulus, tokens_BxT[:, t]
            times_B = operation_B == 2
            product_B = closed_B * n_B if self.order == "left" else closed_B
            closed_B = np.where(times_B, product_B, closed_B + last_B) % self.modulus
            term_B = np.where(operation_B == 1, -n_B, n_B)
            last_B = np.where(times_B, last_B * n_B, term_B) % self.modulus
            targets_BxT[:, t] = (closed_B + last_B) % self.modulus
        scored_BxT = np.broadcast_to(number_T, tokens_BxT.shape).copy()
        return Examples(tokens_BxT, targets_BxT, scored_BxT)


@dataclasses.dataclass(frozen=True)
class WordProblem(Task):
    """y_t = x_1 x_2 ... x_t in a finite group, x_t applied after those before.

    Merrill et al. 2024, "The illusion of state", arXiv 2404.08819: hard where the group
    is not solvable, s5 and a5. Elements are numbered in the order of their permutations
    as tuples, or as integers mod 60; the identity is 0.

    group: "s3", "s5", "a5" (even permutations) or "z60".
    length: tokens of a row.
    elements: that are drawn: "all", or "swaps" of at most two points, arXiv 2411.12537.
    """

    group: str = "s3"
    length: int = 16
    elements: str = "all"

    size = "length"
    running = True
    choices = {"group": ("s3", "s5", "a5", "z60"), "elements": ("all", "swaps")}

    @property
    def context(self) -> int:
        return self.length

    @property
    def vocab_size(self) -> int:
        return len(group_table(self.group))

    @property
    def chance(self) -> float:
        return 1 / self.vocab_size

    def contradiction(self) -> tuple[str, str] | None:
        if self.elements == "swaps" and self.group not in ("s3", "s5"):
            return "elements", f"cannot be 'swaps': group={self.group!r} has none"

    def make(self, draws: Draws, text: Text | None) -> Examples:
        table_GxG = group_table(self.group)
        element_N = np.arange(len(table_GxG), dtype=np.int32)
        if self.elements == "swaps":
            element_N = element_N[_moved(self.group) <= 2]
        tokens_BxT = element_N[draws.integers(self.length, len(element_N))]
        targets_BxT = tokens_BxT.copy()
        for t in range(1, self.length):
            targets_BxT[:, t] = table_GxG[targets_BxT[:, t - 1], tokens_BxT[:, t]]
        return Examples(tokens_BxT, targets_BxT, np.ones(tokens_BxT.shape, bool))


def _permutations(group: str) -> np.ndarray:
    """[G, points], sorted, of "s" or "a" and a number of points."""
    permutation_GxN = np.array(list(itertools.permutations(range(int(group[1:])))))
    if group[0] == "s":
        return permutation_GxN
    first_N, second_N = np.triu_indices(permutation_GxN.shape[1], 1)
    inverted_GxN = permutation_GxN[:, first_N] > permutation_GxN[:, second_N]
    return permutation_GxN[inverted_GxN.sum(1) % 2 == 0]


def _moved(group: str) -> np.ndarray:
    """[G], points that an element moves."""
    permutation_GxN = _permutations(group)
    return (permutation_GxN != np.arange(permutation_GxN.shape[1])).sum(1)


@functools.cache
def group_table(group: str) -> np.ndarray:
    """int32 [G, G]: [a, b] is the element that applies a, then b."""
    if group[0] == "z":
        element_G = np.arange(int(group[1:]), dtype=np.int32)
        return (element_G[:, None] + element_G) % len(element_G)
    permutation_GxN = _permutations(group)
    product_GxGxN = permutation_GxN[:, permutation_GxN].swapaxes(0, 1)
    # Points as digits make numbers in the order of the tuples.
    points = permutation_GxN.shape[1]
    digit_N = points ** np.arange(points)[::-1]
    order_GxG = np.searchsorted(permutation_GxN @ digit_N, product_GxGxN @ digit_N)
    return order_GxG.astype(np.int32)
