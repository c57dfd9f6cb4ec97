"""Intervals and p-values: t over seeds, Holm over claims, a bootstrap over text."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are named

ALPHA = 0.05
SEEDS_FOR_INTERVAL = 3
BLOCKS_FOR_INTERVAL = 10
POWER = 0.8
MOST_SEEDS = 1000


class Interval(NamedTuple):
    """A mean of n values; low and high are None below `SEEDS_FOR_INTERVAL` values."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """Mean of at least one value and its t interval."""
    values_N = np.asarray(values, np.float64)
    mean, n = float(values_N.mean()), values_N.size
    if n < SEEDS_FOR_INTERVAL:
        return Interval(mean, None, None, n)
    error = values_N.std(ddof=1) / math.sqrt(n)
    half = scipy.stats.t.ppf((1 + level) / 2, n - 1) * error
    return Interval(mean, float(mean - half), float(mean + half), n)


def paired_differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """a - b of each seed; a ValueError if the seeds differ."""
    if set(a) != set(b):
        raise ValueError(
            f"arms to be paired have seeds {sorted(a)} and {sorted(b)}; "
            "run both arms on the same seeds"
        )
    return [a[seed] - b[seed] for seed in sorted(a)]


def paired_interval(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """Mean of a - b over the seeds ({seed: value}) and its 95 % t interval."""
    return mean_interval(paired_differences(a, b))


def two_sided_p(values: Sequence[float], boundary: float) -> float:
    """p of the t test that the mean is `boundary`, n >= 2; 0 or 1 without spread."""
    values_N = np.asarray(values, np.float64)
    distance, spread = abs(values_N.mean() - boundary), values_N.std(ddof=1)
    if distance == 0 or spread == 0:
        return float(distance == 0)
    t = distance / spread * math.sqrt(values_N.size)
    return float(2 * scipy.stats.t.sf(t, values_N.size - 1))


def seeds_to_decide(effect: float, alpha: float) -> int | None:
    """Seeds at which a two-sided t test at `alpha` finds an effect with POWER.

    Args:
      effect: distance of the mean from the boundary over the standard deviation, as
        they would have to stay (Cohen's d).

    Returns:
      Their number; None beyond MOST_SEEDS.
    """

    def power(n: int) -> float:
        critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
        return scipy.stats.nct.sf(critical, n - 1, effect * math.sqrt(n))

    few, many = SEEDS_FOR_INTERVAL - 1, MOST_SEEDS
    if effect == 0 or power(many) < POWER:
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power(middle) >= POWER else (middle, many)
    return many


def holm(pvalues: Sequence[float]) -> list[float]:
    """p-values adjusted for being judged together (Holm 1979), in the order given."""
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(np.argsort(pvalues, kind="stable")):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = float(largest)
    return adjusted


def bootstrap_blocks(blocks, seed: int, n: int = 2000) -> Interval:
    """Bits per byte of blocks [[nats, bytes], ...]: ratio of sums, 95 % percentiles.

    Resamples whole blocks, so that dependence within a block is kept. The interval is
    None below `BLOCKS_FOR_INTERVAL` blocks, where percentiles say little.
    """
    blocks_Nx2 = np.asarray(blocks, np.float64)
    count = len(blocks_Nx2)
    nats, size = blocks_Nx2.sum(0)
    mean = float(nats / size / math.log(2))
    if count < BLOCKS_FOR_INTERVAL:
        return Interval(mean, None, None, count)
    draws_SxN = np.random.default_rng(seed).multinomial(count, [1 / count] * count, n)
    sums_Sx2 = draws_SxN @ blocks_Nx2
    bits_S = sums_Sx2[:, 0] / sums_Sx2[:, 1] / math.log(2)
    low, high = np.quantile(bits_S, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(mean, float(low), float(high), count)
