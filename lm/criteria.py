"""Criteria: what a claim measures, and the verdict on it before any adjustment."""

import math
import operator
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lm.intervals import (
    SEEDS_FOR_INTERVAL,
    mean_interval,
    paired_differences,
    two_sided_p,
)
from lm.results import MORE_IS_BETTER, Table

SEEDS_FOR_THRESHOLD = 5
BITS_PER_BYTE = "test.window.bits_per_byte"


@dataclass(frozen=True)
class Verdict:
    """What the data say on a claim; `holds` None: they do not decide it.

    `verdict`: "reproduced", "not reproduced", "inconclusive" or "withheld".
    """

    finding: str
    holds: bool | None = None
    p: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    effect: float | None = None  # distance from the boundary in standard deviations
    verdict: str = "inconclusive"
    p_adjusted: float | None = None
    seeds: str | None = None  # how many would decide an inconclusive claim
    shown: str = ""  # the figure in short, where it is no estimate with an interval

    @property
    def numbers(self) -> str:
        """The finding, its p-values and the seeds that would decide it."""
        text = self.finding
        if self.p is not None:
            text += f"; p = {self.p:.2g}, adjusted {self.p_adjusted:.2g}"
        return f"{text}; {self.seeds} seeds would decide it" if self.seeds else text

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        return f"{self.verdict.capitalize()}: {self.numbers}."


@dataclass(frozen=True)
class Criterion:
    """Base of what can be judged: a subclass measures, `judge` decides."""

    tested: ClassVar[bool] = True  # has a p-value, so that Holm counts it

    def arms(self, table: Table) -> list[str]:
        """Arms that the criterion reads."""
        raise NotImplementedError

    def measure(self, table: Table) -> Verdict:
        """Figures of the criterion before adjustment, all runs being there."""
        raise NotImplementedError

    def checked(self, table: Table) -> Verdict:
        """`measure`, unless an absent arm, a rate on the edge or a lost run forbids."""
        arms = self.arms(table)
        if absent := ", ".join(arm for arm in arms if arm not in table.results):
            return Verdict(f"{absent} takes no part in this comparison")
        columns = [table.column(arm, self.metric) for arm in arms]
        n = min(len(values) for values, _ in columns)
        if edge := ", ".join(arm for arm in arms if arm in table.edge):
            text = f"the best learning rate of {edge} lies on the edge of the grid"
            return Verdict(text, n=n, verdict="withheld")
        if missing := [line for _, lines in columns for line in lines]:
            return Verdict(f"runs are missing: {'; '.join(missing)}", n=n)
        return self.measure(table)


def _tested(what: str, values: list[float], boundary, holds, stated: str) -> Verdict:
    """t test of the mean of `values` against `boundary(mean)`, the nearest boundary."""
    mean, low, high, n = mean_interval(values)
    if low is None:
        points = ", ".join(f"{value:+.3g}" for value in values)
        finding = f"{what}: points {points}; no interval below n = {SEEDS_FOR_INTERVAL}"
        return Verdict(finding, estimate=mean, n=n)
    finding = (
        f"{what} is {mean:+.3g} (95 % interval {low:+.3g} to {high:+.3g}, n = {n}), "
        f"stated: {stated}"
    )
    p, spread = two_sided_p(values, boundary(mean)), statistics.stdev(values)
    effect = abs(mean - boundary(mean)) / spread if spread else None
    return Verdict(finding, bool(holds(mean)), p, mean, low, high, n, effect)


@dataclass(frozen=True)
class Paired(Criterion):
    """Base of criteria on a - b in one metric, paired by seed."""

    a: str
    b: str
    metric: str = BITS_PER_BYTE

    def arms(self, table):
        return [self.a, self.b]

    def differences(self, table: Table) -> tuple[str, list[float]]:
        """Their name, and a - b of each seed; a ValueError if the seeds differ."""
        a, b = (table.column(arm, self.metric)[0] for arm in (self.a, self.b))
        name = f"{self.a} minus {self.b} in {self.metric}"
        return name, paired_differences(a, b)


@dataclass(frozen=True)
class lower(Paired):  # lower case: criteria read as words in an experiment file
    """a is below b by more than `by`.

    Not reproduced: the interval of a - b lies wholly above -by (and Holm's p agrees).
    """

    by: float = 0.0

    def __post_init__(self):
        if self.by < 0:
            raise ValueError(f"by is {self.by}; state how far below, 0 or more")

    def measure(self, table):
        return _tested(
            *self.differences(table),
            boundary=lambda mean: -self.by,
            holds=lambda mean: mean < -self.by,
            stated=f"below {-self.by or 0:g}",
        )


@dataclass(frozen=True)
class less(Criterion):
    """An arm's metric is below another of its own, as a control's, paired by seed.

    Not reproduced: the interval of metric - than lies wholly above 0.
    """

    arm: str
    metric: str
    than: str

    def arms(self, table):
        return [self.arm]

    def measure(self, table):
        values, _ = table.column(self.arm, self.metric)
        others, missing = table.column(self.arm, self.than)
        if missing:
            return Verdict(f"runs are missing: {'; '.join(missing)}", n=len(others))
        return _tested(
            f"{self.metric} minus {self.than} of {self.arm}",
            paired_differences(values, others),
            boundary=lambda mean: 0.0,
            holds=lambda mean: mean < 0,
            stated="below 0",
        )


@dataclass(frozen=True)
class equal(Paired):
    """|a - b| is below a margin declared beforehand: the whole interval lies inside it.

    p is that of two one-sided tests, doubled, so that p <= 0.05 means the 95 % interval
    (not the usual 90 %). Not reproduced: the interval lies wholly outside the margin.
    """

    margin: float = 0.02

    def __post_init__(self):
        if self.margin <= 0:
            raise ValueError(f"margin is {self.margin}; state one above 0")

    def measure(self, table):
        return _tested(
            *self.differences(table),
            boundary=lambda mean: math.copysign(self.margin, mean),
            holds=lambda mean: abs(mean) < self.margin,
            stated=f"within {self.margin:g} of 0",
        )


@dataclass(frozen=True)
class beats(Criterion):
    """An arm's metric is better than a yardstick's: lower, or of a share of what is
    right, BLEU and their like higher.

    Not reproduced: the interval of arm - yardstick lies wholly on the other side of 0.
    """

    arm: str
    yardstick: str
    metric: str = BITS_PER_BYTE

    def arms(self, table):
        return [self.arm]

    def measure(self, table):
        leaf = self.metric.rpartition(".")[2]
        figures = {n: of[leaf] for n, of in table.baselines.items() if leaf in of}
        known, more = dict(table.yardsticks) | figures, leaf in MORE_IS_BETTER
        if not known:
            return Verdict("the yardsticks are not measured yet")
        if self.yardstick not in known:
            raise ValueError(
                f"yardstick {self.yardstick!r} is unknown; use one of {list(known)}"
            )
        constant = known[self.yardstick]
        return _tested(
            f"{self.arm} minus {self.yardstick} ({constant:.4g}) in {self.metric}",
            [v - constant for v in table.column(self.arm, self.metric)[0].values()],
            boundary=lambda mean: 0.0,
            holds=lambda mean: mean > 0 if more else mean < 0,
            stated="above 0" if more else "below 0",
        )


@dataclass(frozen=True)
class Threshold(Criterion):
    """Base of claims on outcomes that jump: no p-value, all seeds meet it or all miss.

    Each arm (None: every arm; a name without its cell: in every cell) needs
    `SEEDS_FOR_THRESHOLD` seeds. Reproduced: every seed of every arm meets it; not
    reproduced: every seed of some arm misses it.
    """

    tested: ClassVar[bool] = False
    relation: ClassVar[str]
    meets: ClassVar[Callable[[float, float], bool]]
    threshold: float
    metric: str
    arm: str | None = None

    def arms(self, table):
        if self.arm is None:
            return list(table.results)
        cells = [arm for arm in table.results if arm.startswith(f"{self.arm}@")]
        return cells or [self.arm]

    def measure(self, table):
        met, counts, everything = {}, [], []
        for arm in self.arms(table):
            values = table.column(arm, self.metric)[0].values()
            everything += values
            met[arm] = m = [self.meets(value, self.threshold) for value in values]
            span = f"{min(values):.4g} to {max(values):.4g}"
            counts.append(f"{sum(m)} of {len(m)} seeds of {arm} ({span})")
        stated = f"{self.metric} {self.relation} {self.threshold:g}"
        finding = f"{stated} is met by {', '.join(counts)}"
        n = min(len(m) for m in met.values())
        kept = sum(sum(m) for m in met.values())
        shown = f"{min(everything):.3g} to {max(everything):.3g}"
        shown += f" ({kept} of {len(everything)} seeds meet it)"
        missed = any(not any(m) for m in met.values())
        if not missed and not all(all(m) for m in met.values()):
            text = f"{finding}; the seeds disagree: more of them will too"
            return Verdict(text, n=n, shown=shown)
        if n < SEEDS_FOR_THRESHOLD:
            seeds = str(SEEDS_FOR_THRESHOLD)
            return Verdict(finding, n=n, seeds=seeds, shown=shown)
        return Verdict(finding, not missed, n=n, shown=shown)


@dataclass(frozen=True)
class at_least(Threshold):
    """Every seed's value is at or above the threshold."""

    relation = "at least"
    meets = staticmethod(operator.ge)


@dataclass(frozen=True)
class at_most(Threshold):
    """Every seed's value is at or below the threshold."""

    relation = "at most"
    meets = staticmethod(operator.le)
