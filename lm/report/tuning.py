"""How learning rates were chosen: the ladder, and what searching it was worth."""

import math

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lm.report.labels import name_ends
from lm.report.plots import RULES, SIZE
from lm.results import SHARES, Comparison, cost

RATES = (
    "Validation figure, lower is better, of each learning rate: mean over the tuning "
    "seeds. Ringed: the rate that was taken, of several as good the middle one; bars: "
    "the ladder's ends; crosses above: a run diverged or failed. Values far above the "
    "rest are cut off."
)
BEST_OF = (
    "Expected best validation figure, lower is better, of n rates drawn from the "
    "ladder without replacement (Dodge et al. 2019 draw with): a lead that shrinks "
    "with n is tuning effort. A line starts where n rates cannot all have failed."
)


def rungs(c: Comparison, match: str, arm: str) -> dict[float, float]:
    """Rate -> mean validation figure, inf where a run was lost; without unfinished."""
    metric = c.plan.get("tuned_by", "validation.window.bits_per_byte")
    by_rate = {}
    for run in c.plan["runs"]:
        if run["tuning"] and (run["match"], run["arm"]) == (match, arm):
            reason = c.reasons.get(run["id"])
            value = cost(reason or c.results[run["id"]], metric)
            by_rate.setdefault(run["lr"], []).append(value)
    return {
        rate: sum(math.inf if isinstance(v, str) else v for v in values) / len(values)
        for rate, values in sorted(by_rate.items())
        if "not finished" not in values
    }


def expected_best(values: list[float]) -> list[float]:
    """Mean of the least of n of the values, over all subsets of n, for n = 1, 2, ..."""
    ordered, total = sorted(values), len(values)
    best = []
    for n in range(1, total + 1):
        # The i-th value is the least of those subsets whose others lie above it.
        ways = [math.comb(total - i, n - 1) for i in range(1, total + 1)]
        terms = [w * v for w, v in zip(ways, ordered, strict=True) if w]
        best.append(sum(terms) / math.comb(total, n))
    return best


def drawn(c: Comparison, match: str, style) -> dict[str, tuple]:
    """{name: (figure, caption)}, two for each cell whose arms were tuned."""
    figures = {}
    label = _label(c)
    for cell, arms in c.cells.items():
        by_arm = {c.base(arm): rungs(c, match, arm) for arm in arms}
        by_arm = {arm: held for arm, held in by_arm.items() if held}
        taken = {c.base(arm): c.best(match, arm).get("lr") for arm in arms}
        if any(math.isfinite(v) for held in by_arm.values() for v in held.values()):
            suffix, of_cell = (f"-{cell}", f" Cell {cell}.") if cell else ("", "")
            chart = _rates(by_arm, taken, style, label)
            figures[f"rates{suffix}"] = (chart, RATES + of_cell)
            best = {a: expected_best(list(held.values())) for a, held in by_arm.items()}
            chart = _best_of(best, style, f"expected best {label}")
            figures[f"best_of{suffix}"] = (chart, BEST_OF + of_cell)
    return figures


def _label(c: Comparison) -> str:
    """validation.x2.accuracy -> 1 - validation accuracy (x2)."""
    parts = c.plan.get("tuned_by", "validation.window.bits_per_byte").split(".")
    sign = "1 - " if parts[-1] in SHARES else ""
    test = "" if parts[1] in ("window", "same") else f" ({parts[1]})"
    return f"{sign}{parts[0]} {parts[-1]}{test}".replace("_", " ")


def _rates(by_arm: dict[str, dict[float, float]], taken: dict, style, label: str):
    values = sorted(v for held in by_arm.values() for v in held.values())
    values = [v for v in values if math.isfinite(v)]
    low, upper = values[0], values[len(values) * 3 // 4]
    top = min(values[-1], upper + 1.5 * (upper - low))
    room = 0.06 * (top - low) or 0.05
    with plt.rc_context(RULES):
        chart, axes = plt.subplots(figsize=SIZE, layout="constrained")
        axes.set_xscale("log")
        wrecked = [a for a, held in by_arm.items() if math.inf in held.values()]
        axes.set_ylim(low - room, top + room)
        ends = []
        for arm, held in by_arm.items():
            color = style[arm].color
            kept = {rate: v for rate, v in held.items() if math.isfinite(v)}
            lost = [rate for rate in held if rate not in kept]
            if lost:
                height = 1.04 + 0.045 * wrecked.index(arm)
                cross = dict(color=color, ls="none", marker="x", ms=7, mew=2)
                above = axes.get_xaxis_transform()
                axes.plot(
                    lost, [height] * len(lost), **cross, transform=above, clip_on=False
                )
            if not kept:
                continue
            x, y = list(kept), list(kept.values())
            axes.plot(x, y, **style[arm]._asdict(), lw=1.8, ms=5)
            sides = [i for i in (0, -1) if list(held)[i] == x[i]]
            bars = dict(color=color, ls="none", marker="|", ms=16, mew=2)
            axes.plot([x[i] for i in sides], [y[i] for i in sides], **bars)
            if taken[arm] in kept:
                ring = dict(marker="o", ms=14, mfc="none", mec=color, mew=2)
                axes.plot(taken[arm], kept[taken[arm]], **ring)
            ends.append((x[-1], min(y[-1], top), arm))
        rates = sorted({rate for held in by_arm.values() for rate in held})
        axes.set_xticks(rates[:: -(-len(rates) // 7)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        if wrecked:
            place = (1.02, 1.03)
            axes.annotate("run lost", place, xycoords="axes fraction", color="#444444")
        axes.set_xlabel("learning rate")
        axes.set_ylabel(label)
        name_ends(axes, ends, style)
    return chart


def _best_of(by_arm: dict[str, list[float]], style, label: str):
    with plt.rc_context(RULES):
        chart, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = []
        for arm, best in by_arm.items():
            kept = [(n, v) for n, v in enumerate(best, 1) if math.isfinite(v)]
            if kept:
                x, y = zip(*kept, strict=True)
                axes.plot(x, y, **style[arm]._asdict(), lw=2.2, ms=5)
                ends.append((x[-1], y[-1], arm))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("learning rates tried, n")
        axes.set_ylabel(label)
        name_ends(axes, ends, style)
    return chart
