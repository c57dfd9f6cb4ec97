"""What a tier runs: arms under matches, at rates that are stated or tuned."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from lm.config import ConfigError

QUANTITIES = (
    "params",
    "params_non_embedding",
    "flops",
    "state_bytes",
    "width",
    "seconds",
)
TUNING_SEEDS = 1000  # from here up: they choose a rate and enter no verdict


@dataclasses.dataclass(frozen=True)
class Match:
    """What every arm has equally much of, within 1 %.

    quantity: one of QUANTITIES; "width" fits nothing: arms share every width.
    "seconds" are of training, from each arm's step as it is timed alone on this machine
    once, before anything is run; `by` is train.duration.
    target: of the quantity. by: the integer key that is fitted to reach it.
    """

    quantity: str = "params_non_embedding"
    target: float | None = None
    by: str | None = None

    def __post_init__(self):
        if self.quantity not in QUANTITIES:
            raise ConfigError(
                f"Match quantity {self.quantity!r}: take one of {', '.join(QUANTITIES)}"
            )
        given = {self.target is not None, self.by is not None}
        if given != {self.quantity != "width"}:
            raise ConfigError(
                f"Match {self.quantity!r} needs target and by; 'width' needs neither"
            )
        if (self.quantity == "seconds") != (self.by == "train.duration"):
            raise ConfigError(
                f"Match {self.quantity!r} by {self.by!r}: seconds are fitted by "
                "train.duration, and no other quantity is"
            )


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Learning rates start * ratio**k: the same for all arms, chosen on validation.

    When an arm's best is an end rung, every arm gets two more at the end nearer its own
    best; after `most` rungs the edge is flagged and the verdict withheld.
    by: dotted path of the validation figure; None: bits per byte of a text, nats per
    token of a task at training's own sizes. Of an accuracy, what it lacks of 1.
    tie: figures within so much of the best are as good as it, as where many rates solve
    a task: the middle one of these rates is chosen.
    """

    start: float
    ratio: float = 2.0
    rungs: int = 6
    most: int = 10
    seeds: tuple[int, ...] = (TUNING_SEEDS,)
    by: str | None = None
    tie: float = 0.0

    def __post_init__(self):
        if self.rungs < 6:
            raise ConfigError(f"Ladder has {self.rungs} rungs: give at least 6")
        if min(self.seeds) < TUNING_SEEDS:
            raise ConfigError(
                f"Ladder seeds {self.seeds}: tuning seeds start at {TUNING_SEEDS}"
            )
        if self.by is not None and not self.by.startswith("validation."):
            raise ConfigError(
                f"Ladder by {self.by!r}: rates are chosen on validation, for example "
                "by validation.same.nats_per_token"
            )

    def rate(self, rung: int) -> float:
        """The rate of a rung; rungs below 0 and above the first `rungs` are added."""
        return float(f"{self.start * self.ratio**rung:.4g}")

    def best(self, figures: Mapping[int, float]) -> int:
        """The rung of the lowest of {rung: figure}; of several as good, the middle."""
        lowest = min(figures.values())
        if lowest == math.inf:
            return min(figures)
        good = sorted(k for k, value in figures.items() if value <= lowest + self.tie)
        return good[(len(good) - 1) // 2]

    def extended(self, rungs: Sequence[int], best: int) -> list[int]:
        """`rungs` with two more at the end nearer `best`, at most `most` in all."""
        low, high = min(rungs), max(rungs)
        room = min(2, self.most - len(rungs))
        if best - low <= high - best:
            return [*range(low - room, low), *rungs]
        return [*rungs, *range(high + 1, high + 1 + room)]


@dataclasses.dataclass(frozen=True)
class Runs:
    """What a tier runs: every arm x seed under every match.

    rate: one stated learning rate, or a Ladder. arms: names; default: all of ARMS.
    """

    config: ConfigDict
    seeds: tuple[int, ...]
    rate: float | Ladder
    matches: tuple[Match, ...]
    arms: tuple[str, ...] | None = None
