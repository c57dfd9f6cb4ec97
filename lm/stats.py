"""Claims and the rules by which they are judged; the unit is the seed.

A claim with a test (`lower`, `less`, `equal`, `beats`) has one two-sided p-value, for
the distance of its estimate from the nearest boundary of what it states. Holm adjusts
it over all claims judged together; a claim that lacks a run keeps its place there with
p = 1. It is decided when the adjusted p is at most 0.05: "reproduced" when the estimate
lies on the side it states, "not reproduced" when it lies on the other (the 95 % t
interval, shown unadjusted, then lies wholly on that side too), else "inconclusive".
An inconclusive claim says how many seeds would decide it: those at which the t test at
0.05 over the number of tested claims, which is Holm's strictest, finds the difference
that was seen, with the spread that was seen, four times of five.
Claims that jump (`at_least`, `at_most`) have no p-value: all seeds agree, or nothing is
decided. An arm whose best learning rate lies on the edge of the grid: "withheld".
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lm.criteria import (
    BITS_PER_BYTE,
    SEEDS_FOR_THRESHOLD,
    Criterion,
    Threshold,
    Verdict,
    at_least,
    at_most,
    beats,
    equal,
    less,
    lower,
)
from lm.intervals import ALPHA, MOST_SEEDS, holm, seeds_to_decide
from lm.results import Table

__all__ = [
    "BITS_PER_BYTE",
    "SEEDS_FOR_THRESHOLD",
    "Claim",
    "Criterion",
    "Threshold",
    "Verdict",
    "at_least",
    "at_most",
    "beats",
    "equal",
    "judge",
    "less",
    "lower",
]


@dataclass(frozen=True)
class Claim:
    """A statement, how it is judged, and the paper's own numbers."""

    text: str
    criterion: Criterion
    paper: str = ""


def judge(pairs: Sequence[tuple[Criterion, Table]]) -> list[Verdict]:
    """Verdicts of all criteria of one experiment, Holm-adjusted together."""
    verdicts = [criterion.checked(table) for criterion, table in pairs]
    tested = [i for i, (criterion, _) in enumerate(pairs) if criterion.tested]
    family = [1.0 if verdicts[i].p is None else verdicts[i].p for i in tested]
    adjusted = dict(zip(tested, holm(family), strict=True))
    for i, v in enumerate(verdicts):
        p = None if v.p is None else adjusted[i]
        if v.holds is not None and (p is None or p <= ALPHA):
            word = "reproduced" if v.holds else "not reproduced"
            v = dataclasses.replace(v, verdict=word)
        elif v.verdict == "inconclusive" and v.effect is not None:
            count = seeds_to_decide(v.effect, ALPHA / len(family))
            seeds = f"about {count}" if count else f"more than {MOST_SEEDS:,}"
            v = dataclasses.replace(v, seeds=seeds)
        verdicts[i] = dataclasses.replace(v, p_adjusted=p)
    return verdicts
