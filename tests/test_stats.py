"""The rules of judgement: coverage and error rates by simulation, and their words."""

import math

import numpy as np
import pytest

from lm.intervals import (
    bootstrap_blocks,
    holm,
    mean_interval,
    paired_interval,
    seeds_to_decide,
    two_sided_p,
)
from lm.results import Table
from lm.stats import at_least, at_most, beats, equal, judge, less, lower

EXPERIMENTS = 4000


def table(edge=(), yardsticks=None, **arms):
    """Table of one metric "x", arm -> values of seeds 0, 1, ..; a str is a reason."""
    results = {
        arm: {
            seed: v if isinstance(v, str) else {"status": "done", "x": float(v)}
            for seed, v in enumerate(values)
        }
        for arm, values in arms.items()
    }
    return Table(results, yardsticks or {}, frozenset(edge))


def verdict_of(criterion, t):
    return judge([(criterion, t)])[0]


@pytest.mark.parametrize("n", [3, 5])
def test_t_interval_covers_the_mean_in_95_percent(n):
    draws = np.random.default_rng(0).normal(2.0, 0.1, (EXPERIMENTS, n))
    intervals = [mean_interval(values) for values in draws]
    covered = np.mean([i.low <= 2.0 <= i.high for i in intervals])
    assert abs(covered - 0.95) < 0.012  # 3.5 standard errors


def test_p_is_uniform_under_the_null_and_agrees_with_the_interval():
    draws = np.random.default_rng(1).normal(2.0, 0.1, (EXPERIMENTS, 4))
    p = np.array([two_sided_p(values, 2.0) for values in draws])
    for level in (0.05, 0.3, 0.7):
        error = math.sqrt(level * (1 - level) / EXPERIMENTS)
        assert abs(np.mean(p <= level) - level) < 3.5 * error
    outside = [not (i.low <= 2.0 <= i.high) for i in map(mean_interval, draws)]
    assert (p <= 0.05).tolist() == outside


def test_paired_interval_takes_out_what_seeds_share():
    shared = {seed: 10.0 * seed for seed in range(5)}
    a = {seed: v + 0.5 + 0.01 * (-1) ** seed for seed, v in shared.items()}
    assert paired_interval(a, shared).mean == pytest.approx(0.502)
    low, high = paired_interval(a, shared)[1:3]
    assert 0.4 < low < 0.502 < high < 0.6


def test_holm_equals_the_worked_example_and_keeps_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_family_of_null_claims_errs_in_at_most_5_percent():
    rng = np.random.default_rng(2)
    claims = [lower("a", "d", "x"), lower("b", "d", "x"), lower("c", "d", "x")]
    claims.append(beats("d", "rule", "x"))
    errors = 0
    for _ in range(EXPERIMENTS):
        a, b, c, d = rng.normal(2.0, 0.1, (4, 3))
        t = table(a=a, b=b, c=c, d=d, yardsticks={"rule": 2.0})
        verdicts = judge([(claim, t) for claim in claims])
        errors += any(v.verdict != "inconclusive" for v in verdicts)
    assert errors / EXPERIMENTS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)
    assert errors > 0


@pytest.mark.parametrize("n", [3, 5])
def test_equal_is_rarely_declared_when_the_difference_is_the_margin(n):
    rng, declared = np.random.default_rng(3), 0
    for _ in range(EXPERIMENTS):
        a, b = rng.normal(2.0, 0.003, (2, n))
        criterion = equal("a", "b", "x", 0.02)
        verdict = verdict_of(criterion, table(a=a + 0.02, b=b))
        declared += verdict.verdict == "reproduced"
    assert 0.015 < declared / EXPERIMENTS < 0.035  # 2.5 %: a one-sided error


@pytest.mark.parametrize(
    ("effect", "alpha", "seeds"),
    [(0.5, 0.05, 34), (0.8, 0.05, 15), (1.0, 0.05, 10), (0.5, 0.01, 51)],
)
def test_seeds_to_decide_are_those_of_power_tables(effect, alpha, seeds):
    """The one-sample t test in the tables of power, at 80 %."""
    assert seeds_to_decide(effect, alpha) == seeds


@pytest.mark.parametrize(("effect", "alpha"), [(2.0, 0.05), (0.9, 0.0125)])
def test_as_many_seeds_decide_four_times_of_five(effect, alpha):
    n = seeds_to_decide(effect, alpha)
    rng = np.random.default_rng(5)

    def share(n):
        draws = rng.normal(effect, 1.0, (EXPERIMENTS, n))
        return np.mean([two_sided_p(values, 0.0) <= alpha for values in draws])

    error = math.sqrt(0.8 * 0.2 / EXPERIMENTS)
    assert share(n) > 0.8 - 3 * error
    assert share(n - 1) < 0.8 + 3 * error


def test_an_inconclusive_claim_says_how_many_seeds_would_decide_it():
    t = table(a=[1.0, 1.1, 1.2, 1.3], b=[1.05, 1.2, 1.1, 1.4], c=[1.0, 1.1, 1.2, 1.3])
    one = lower("a", "b", "x")
    alone = verdict_of(one, t)
    assert alone.effect == pytest.approx(0.0375 / 0.0946485, abs=1e-3)
    assert alone.seeds == f"about {seeds_to_decide(alone.effect, 0.05)}"
    assert alone.sentence.endswith(f"; {alone.seeds} seeds would decide it.")
    family = judge([(one, t), (lower("a", "c", "x"), t)])
    assert family[0].seeds == f"about {seeds_to_decide(alone.effect, 0.025)}"
    assert family[1].seeds is None  # no spread: equal to the last bit
    decided = verdict_of(
        lower("a", "b", "x"), table(a=[1.0, 1.1, 1.2], b=[2.0, 2.1, 2.21])
    )
    assert decided.seeds is None and "would decide" not in decided.sentence
    near = table(a=[0.0, 1.0, -1.0, 0.0], b=[0.001, 0.0, 0.0, 0.0])
    assert verdict_of(lower("a", "b", "x"), near).seeds == "more than 1,000"


def test_bootstrap_covers_the_rate_of_a_text():
    rng, covered = np.random.default_rng(4), 0
    size_N = rng.integers(1500, 2500, 100_000)  # blocks of unlike sizes and rates
    nats_N = size_N * rng.gamma(20.0, 1.5 / 20, size_N.size)
    truth = nats_N.sum() / size_N.sum() / math.log(2)
    trials = 400
    for trial in range(trials):
        pick = rng.integers(0, size_N.size, 80)
        blocks = np.stack([nats_N[pick], size_N[pick]], 1)
        interval = bootstrap_blocks(blocks, seed=trial, n=400)
        covered += interval.low <= truth <= interval.high
    assert 0.91 < covered / trials < 0.98


def test_bootstrap_weighs_blocks_by_bytes_and_is_seeded():
    blocks = [[math.log(2) * 100, 100]] * 10 + [[math.log(2) * 3000, 1000]] * 10
    first = bootstrap_blocks(blocks, seed=0)
    assert first.mean == pytest.approx(31_000 / 11_000)
    assert first.low < first.mean < first.high
    unlike = [[1000.0 + 37 * i**2 % 101, 1000] for i in range(20)]
    again = bootstrap_blocks(unlike, seed=0)
    assert bootstrap_blocks(unlike, seed=0) == again
    assert bootstrap_blocks(unlike, seed=1) != again
    assert bootstrap_blocks(blocks[:9], seed=0).low is None


def test_lower_decides_both_ways_and_gives_its_numbers():
    t = table(a=[1.0, 1.1, 1.2], b=[1.51, 1.6, 1.69])
    verdict = verdict_of(lower("a", "b", "x"), t)
    assert verdict.verdict == "reproduced"
    assert verdict.estimate == pytest.approx(-0.5)
    assert (verdict.low, verdict.high) == pytest.approx((-0.5248, -0.4752), abs=1e-4)
    for text in ("-0.5", "n = 3", "95 % interval", "adjusted"):
        assert text in verdict.sentence
    assert verdict_of(lower("b", "a", "x"), t).verdict == "not reproduced"
    assert verdict_of(lower("a", "b", "x", by=0.49), t).verdict == "inconclusive"
    assert verdict_of(lower("a", "b", "x", by=0.6), t).verdict == "not reproduced"


def test_equal_needs_the_whole_interval_inside():
    same = [2.0, 2.1, 2.2]
    near = table(a=same, b=[2.001, 2.1, 2.199])
    assert verdict_of(equal("a", "b", "x", 0.02), near).verdict == "reproduced"
    assert verdict_of(equal("a", "b", "x", 0.002), near).verdict == "inconclusive"
    far = table(a=same, b=[2.101, 2.2, 2.299])
    assert verdict_of(equal("a", "b", "x", 0.02), far).verdict == "not reproduced"


def test_beats_takes_the_figures_of_a_task_and_their_direction():
    rows = {
        s: {"status": "done", "t": {"bleu": b, "nats": 9 - b}}
        for s, b in enumerate((6.0, 6.1, 6.2))
    }
    known = {"copy": {"bleu": 5.0, "nats": 1.0}, "majority": {"exact": 0.3}}
    t = Table({"a": rows}, baselines=known)
    verdict = verdict_of(beats("a", "copy", "t.bleu"), t)
    assert verdict.verdict == "reproduced" and "above 0" in verdict.sentence
    assert verdict_of(beats("a", "copy", "t.nats"), t).verdict == "not reproduced"
    with pytest.raises(ValueError, match="'majority' is unknown; use one of .*copy"):
        verdict_of(beats("a", "majority", "t.bleu"), t)


def test_less_compares_two_figures_of_an_arm_by_seed():
    rows = {0: (1.0, 1.4), 1: (2.0, 2.5), 2: (3.0, 3.6)}
    done = {seed: {"status": "done", "x": x, "y": y} for seed, (x, y) in rows.items()}
    t = Table({"a": done})
    verdict = verdict_of(less("a", "x", "y"), t)
    assert verdict.verdict == "reproduced"  # paired: the seeds differ by far more
    assert verdict.estimate == pytest.approx(-0.5)
    assert "x minus y of a" in verdict.sentence
    assert verdict_of(less("a", "y", "x"), t).verdict == "not reproduced"
    noisy = Table({"a": done | {2: {"status": "done", "x": 3.0, "y": 2.0}}})
    assert verdict_of(less("a", "x", "y"), noisy).verdict == "inconclusive"
    nested = {s: r | {"y": {"z": r["y"]}} for s, r in done.items()}
    nested[2]["y"] = {"unavailable": "too long"}
    lost = verdict_of(less("a", "x", "y.z"), Table({"a": nested}))
    assert lost.holds is None and "too long" in lost.finding


def test_beats_compares_with_a_constant():
    t = table(a=[2.0, 2.01, 2.02], yardsticks={"6-gram": 2.47, "xz": 1.9, "y": 2.012})
    words = [verdict_of(beats("a", y, "x"), t).verdict for y in ("6-gram", "xz", "y")]
    assert words == ["reproduced", "not reproduced", "inconclusive"]
    with pytest.raises(ValueError, match="'7-gram'.*6-gram"):
        verdict_of(beats("a", "7-gram", "x"), t)


def test_holm_makes_a_verdict_harder_when_claims_are_added():
    t = table(a=[1.0, 1.04, 1.02], b=[1.07, 1.09, 1.11], c=[1.0, 1.1, 1.05])
    claim, other = lower("a", "b", "x"), lower("a", "c", "x")
    alone, family = verdict_of(claim, t), judge([(claim, t)] + [(other, t)] * 3)
    assert alone.verdict == "reproduced"
    assert family[0].p_adjusted == pytest.approx(4 * alone.p)
    assert family[0].verdict == "inconclusive"
    assert (family[0].low, family[0].high) == (alone.low, alone.high)


def test_a_claim_without_its_run_keeps_its_place_in_the_family():
    t = table(a=[1.0, 1.04, 1.02], b=[1.08, 1.07, 1.1], c=[1.0, 1.0, "not run"])
    first, second = judge([(lower("a", "b", "x"), t), (lower("a", "c", "x"), t)])
    assert first.p_adjusted == pytest.approx(2 * first.p)
    assert second.verdict == "inconclusive"
    assert "c seed 2: not run" in second.sentence


def test_diverged_run_is_stated_not_dropped():
    results = dict(table(a=[1.0] * 4, b=[2.0] * 4).results)
    results["a"] = {**results["a"], 3: {"status": "diverged", "diverged_at": 40}}
    t = Table(results)
    for criterion in (lower("a", "b", "x"), at_least(0.5, "x", "a")):
        verdict = verdict_of(criterion, t)
        assert verdict.verdict == "inconclusive"
        assert "a seed 3: diverged at step 40" in verdict.sentence
        assert verdict.estimate is None


def test_not_a_number_is_a_missing_figure():
    verdict = verdict_of(
        lower("a", "b", "x"), table(a=[1.0, math.nan, 1.0], b=[2.0] * 3)
    )
    assert verdict.verdict == "inconclusive"
    assert "a seed 1: not finite" in verdict.sentence


def test_arm_that_this_tier_leaves_out_is_stated_and_keeps_its_place():
    t = table(a=[1.0, 1.1, 1.2], b=[2.0, 2.1, 2.21])
    first, second = judge([(lower("a", "b", "x"), t), (lower("a", "c", "x"), t)])
    assert first.p_adjusted == pytest.approx(2 * first.p)
    assert second.verdict == "inconclusive"
    assert "c takes no part in this comparison" in second.sentence


def test_two_seeds_give_points_and_no_interval():
    verdict = verdict_of(lower("a", "b", "x"), table(a=[1.0, 1.0], b=[2.0, 2.1]))
    assert verdict.verdict == "inconclusive"
    assert verdict.low is None and verdict.p is None
    assert "points -1, -1.1" in verdict.sentence


def test_seeds_that_do_not_match_are_an_error():
    t = table(a=[1.0, 1.1, 1.2], b=[2.0, 2.1, 2.2, 2.3])
    with pytest.raises(ValueError, match=r"\[0, 1, 2\] and \[0, 1, 2, 3\]"):
        verdict_of(lower("a", "b", "x"), t)


def test_rate_on_the_edge_withholds_only_what_it_touches():
    t = table(edge=["a"], a=[1.0, 1.1, 1.2], b=[2.0, 2.1, 2.21], c=[3.0, 3.1, 3.2])
    assert verdict_of(lower("a", "b", "x"), t).verdict == "withheld"
    assert "a lies on the edge" in verdict_of(lower("a", "b", "x"), t).sentence
    assert verdict_of(lower("b", "c", "x"), t).verdict == "reproduced"
    assert verdict_of(at_least(0.5, "x"), t).verdict == "withheld"


@pytest.mark.parametrize(
    "values, verdict",
    [
        ([1.0] * 5, "reproduced"),
        ([0.99] * 5, "reproduced"),
        ([0.5] * 5, "not reproduced"),
        ([1.0] * 4 + [0.98], "inconclusive"),
        ([1.0] * 4, "inconclusive"),
        ([0.5] * 4, "inconclusive"),
    ],
)
def test_threshold_needs_five_seeds_that_agree(values, verdict):
    assert verdict_of(at_least(0.99, "x", "a"), table(a=values)).verdict == verdict
    mirrored = table(a=[-v for v in values])
    assert verdict_of(at_most(-0.99, "x", "a"), mirrored).verdict == verdict


def test_threshold_for_all_arms_fails_with_one_of_them():
    good, mixed, bad = [1.0] * 5, [1.0, 0.0, 1.0, 1.0, 1.0], [0.0] * 5
    criterion = at_least(0.99, "x")
    assert verdict_of(criterion, table(a=good, b=good)).verdict == "reproduced"
    assert verdict_of(criterion, table(a=good, b=mixed)).verdict == "inconclusive"
    assert verdict_of(criterion, table(a=mixed, b=bad)).verdict == "not reproduced"


def cells(**arms):
    """The table whose arms are named arm@cell; `__` in a name stands for the @."""
    t = table(**arms)
    named = {name.replace("__", "@"): seeds for name, seeds in t.results.items()}
    return Table(named)


def test_a_threshold_for_a_name_without_its_cell_is_for_every_cell():
    good, mixed, bad = [1.0] * 5, [1.0, 0.0, 1.0, 1.0, 1.0], [0.0] * 5
    criterion, one = at_least(0.99, "x", "a"), at_least(0.99, "x", "a@small")
    t = cells(a__small=good, a__large=good, ab__small=bad, b__small=bad)
    verdict = verdict_of(criterion, t)
    assert verdict.verdict == "reproduced" and verdict.p is None
    for text in ("5 of 5 seeds of a@small", "5 of 5 seeds of a@large"):
        assert text in verdict.sentence
    assert "ab@small" not in verdict.sentence
    mixed_cell = cells(a__small=good, a__large=mixed)
    assert verdict_of(criterion, mixed_cell).verdict == "inconclusive"
    assert verdict_of(one, mixed_cell).verdict == "reproduced"
    bad_cell = cells(a__small=good, a__large=bad)
    assert verdict_of(criterion, bad_cell).verdict == "not reproduced"
    lost = cells(a__small=good, a__large=[*good[:4], "not run"])
    assert "a@large seed 4: not run" in verdict_of(criterion, lost).sentence
    assert verdict_of(criterion, lost).verdict == "inconclusive"


def test_a_threshold_says_whether_five_seeds_would_decide_it():
    good, mixed, bad = [1.0] * 5, [1.0, 0.0, 1.0, 1.0, 1.0], [0.0] * 5
    criterion = at_least(0.99, "x", "a")
    for values in (good[:4], bad[:4], good[:1]):
        verdict = verdict_of(criterion, cells(a__small=values, a__large=good))
        assert (verdict.verdict, verdict.seeds) == ("inconclusive", "5")
        assert verdict.sentence.endswith("; 5 seeds would decide it.")
    # A cell whose seeds all miss it decides, whatever those of another do.
    assert (
        verdict_of(criterion, cells(a__small=mixed[:4], a__large=bad[:4])).seeds == "5"
    )
    for values in (mixed, mixed[:4]):
        verdict = verdict_of(criterion, cells(a__small=values, a__large=good))
        assert (verdict.verdict, verdict.seeds) == ("inconclusive", None)
        assert "the seeds disagree" in verdict.sentence
        assert "would decide" not in verdict.sentence


def test_thresholds_take_no_place_in_the_family():
    t = table(a=[1.0, 1.1, 1.2, 1.3, 1.4], b=[1.5, 1.6, 1.69, 1.8, 1.91])
    tested, _ = judge([(lower("a", "b", "x"), t), (at_least(0.5, "x"), t)])
    assert tested.p_adjusted == tested.p


def test_names_that_do_not_exist_are_errors_with_the_known_ones():
    t = table(a=[1.0] * 3, b=[2.0] * 3)
    with pytest.raises(ValueError, match="'y'.*status.*x"):
        verdict_of(lower("a", "b", "y"), t)
    with pytest.raises(ValueError, match="'c'.*'a', 'b'"):
        t.column("c", "x")
    with pytest.raises(ValueError, match="margin is 0"):
        equal("a", "b", "x", 0)
    with pytest.raises(ValueError, match="by is -0.1"):
        lower("a", "b", "x", -0.1)


def test_unavailable_protocol_is_missing_with_its_reason():
    done = {"status": "done", "stream": {"unavailable": "no cache"}}
    t = Table({arm: {seed: done for seed in range(3)} for arm in "ab"})
    verdict = verdict_of(lower("a", "b", "stream.bits_per_byte"), t)
    assert "unavailable: no cache" in verdict.sentence
