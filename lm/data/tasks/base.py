"""What a synthetic task is: rows that are pure functions of (seed, index)."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import numpy as np

from lm.errors import ConfigError

# Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def _mixed(x):
    """SplitMix64's output function of uint64 states."""
    for shift, factor in MIXERS:
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> np.uint64(31))


class Draws:
    """Draws of B rows: what row b gets follows from (seed, index[b]) and the order of
    the calls, not from the other rows.

    Args:
      seed: words that name the stream, such as (seed, split).
      index_B: which examples of it, 0 or more.
    """

    def __init__(self, seed: tuple[int, ...], index_B):
        self._seed, self._index_B = seed, np.asarray(index_B, np.int64)
        base = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        self._row_B = _mixed(base + GAMMA * np.asarray(index_B, np.uint64))
        self._place = 1

    def uniform(self, count: int) -> np.ndarray:
        """float64 [B, count], inside (0, 1)."""
        place_N = np.arange(self._place, self._place + count, dtype=np.uint64)
        self._place += count
        bits_BxN = _mixed(self._row_B[:, None] + GAMMA * place_N)
        return ((bits_BxN >> np.uint64(12)) + 0.5) * 2.0**-52

    def permuted(self, size: int, ahead: int = 0) -> np.ndarray:
        """int64 [B]: each row's place in an order of range(size), one drawn anew for
        every `size` rows; or the place `ahead` further on in it."""
        epoch_B, at_B = np.divmod(self._index_B, size)
        at_B = (at_B + ahead) % size
        place_B = np.empty_like(at_B)
        for epoch in np.unique(epoch_B):
            here_B = epoch_B == epoch
            place_B[here_B] = _order(self._seed, int(epoch), size)[at_B[here_B]]
        return place_B

    def integers(self, count: int, high: int) -> np.ndarray:
        """int32 [B, count], uniform in [0, high)."""
        return (self.uniform(count) * high).astype(np.int32)

    def chosen(self, count: int, size: int, weights=None) -> np.ndarray:
        """int32 [B, count]: draws from range(size) without replacement, in their order.

        Args:
          weights: positive [size]; each draw takes one of those left in proportion to
            them. By exponential clocks: the first that ring are such draws.
        """
        weights_S = np.ones(size) if weights is None else np.asarray(weights)
        clock_BxS = -np.log(self.uniform(size)) / weights_S
        if count < size:
            first_BxN = np.argpartition(clock_BxS, count - 1, axis=1)[:, :count]
            times_BxN = np.take_along_axis(clock_BxS, first_BxN, 1)
        else:
            first_BxN = np.broadcast_to(np.arange(size), clock_BxS.shape)
            times_BxN = clock_BxS
        order_BxN = np.argsort(times_BxN, axis=1)
        return np.take_along_axis(first_BxN, order_BxN, 1).astype(np.int32)


@functools.lru_cache(maxsize=8)
def _order(seed: tuple[int, ...], epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((*seed, epoch)).permutation(size)


class Examples(NamedTuple):
    """Rows of a task.

    tokens, targets: int32 [B, T]; scored: bool [B, T], where a target is to be
    predicted, from the tokens up to and with that place, or from all (Task.both_sides).
    """

    tokens: np.ndarray
    targets: np.ndarray
    scored: np.ndarray


class Text(NamedTuple):
    """What a task reads of a corpus.

    tokens_N: of a split; starts_D: of its documents; vocab_size: tokens of its
    tokenizer; opens_V, closes_V: bool, whether a token's first byte, and its last, is
    no part of a word; between, end: ids of the marks in a pair (lm/data/pairs.py), None
    where the tokenizer has no token for them alone.
    """

    tokens_N: np.ndarray
    starts_D: np.ndarray
    vocab_size: int
    opens_V: np.ndarray
    closes_V: np.ndarray
    between: int | None
    end: int | None

    def pieces(self, draws: Draws, length: int, field: str) -> np.ndarray:
        """int32 [B, length], each from anywhere in the text.

        ConfigError, naming the `field` of the task, where it is too short.
        """
        starts = len(self.tokens_N) - length + 1
        if starts < 1:
            raise ConfigError(
                f"data.task.{field}={length} is longer than a split of the text, "
                f"{len(self.tokens_N)} tokens: lower it or give a larger file"
            )
        start_Bx1 = (draws.uniform(1) * starts).astype(np.int64)
        return self.tokens_N[start_Bx1 + np.arange(length)].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Task:
    """Base of the synthetic tasks; a subclass's fields are keys of config.data.task.

    Attributes:
      examples: distinct rows of training, which are then seen in turn; None: each row
        of training is new.
      held_out: rows of validation, and of each test.
      size: name of the field that says how hard a row is, for figures.
      running: a longer row begins as a shorter one, scored as it is: of a test longer
        than training, only what lies beyond counts.
      reads_text: whether rows are made from the text of data.corpus.
      reads_pairs: whether its documents are pairs, of which every test has the same.
      writes: whether its tests have a model write answers too.
      marks: tokens beside those of the corpus, the last of the vocabulary.
      both_sides: whether a target is to be predicted from the tokens after it too.
      training_only: fields that a test does not take over, as it has rows of one size.
      choices: field -> its valid names.
    """

    examples: int | None = None
    held_out: int = 512

    size: ClassVar[str]
    running: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    marks: ClassVar[int] = 0
    both_sides: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ("examples",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def context(self) -> int:
        """T, tokens of a row."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Tokens are below it; of a task that reads text the corpus's counts."""
        raise NotImplementedError

    @property
    def chance(self) -> float | None:
        """Accuracy of a guess among the answers that a row leaves open; None: text, of
        which nobody guesses."""
        raise NotImplementedError

    @property
    def figures(self) -> tuple[str, ...]:
        """What an EVAL of it has beside those of all tasks."""
        return ()

    def contradiction(self) -> tuple[str, str] | None:
        """(field, what is wrong) of the first field that cannot be."""
        return None

    def rows_of(self, text: Text | None) -> int | None:
        """Rows of an epoch; None where it has no end."""
        return self.examples

    def make(self, draws: Draws, text: Text | None) -> Examples:
        """A row for each of the draws'.

        Args:
          text: of a split of the corpus, for a task that reads text.
        """
        raise NotImplementedError
