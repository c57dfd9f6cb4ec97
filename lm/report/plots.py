"""Figures of a report: an arm has one colour, marker and dash in all of them."""

import io
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import (  # noqa: E402
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from lm.intervals import Interval  # noqa: E402
from lm.report.labels import binary, name_ends, name_lines, si  # noqa: E402

# Okabe and Ito 2008, but for its yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", "--", "-.", ":")
RULES = {
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "svg.hashsalt": "lm",
    "savefig.dpi": 140,
}
SIZE = (6.4, 4.2)


class Style(NamedTuple):
    """How one arm is drawn."""

    color: str
    marker: str
    linestyle: str


class Curve(NamedTuple):
    """One seed's line."""

    x: list[float]
    y: list[float]


def styles(arms) -> dict[str, Style]:
    """Style of each arm, by its place in the plan."""
    return {
        arm: Style(COLOURS[i % 7], MARKERS[i % 8], DASHES[i % 4])
        for i, arm in enumerate(arms)
    }


def render(figure) -> tuple[bytes, bytes]:
    """(PNG, SVG) of a figure, which is closed."""
    png, svg = io.BytesIO(), io.BytesIO()
    with plt.rc_context(RULES):
        figure.savefig(png, format="png")
        figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)
    return png.getvalue(), svg.getvalue()


def curves(by_arm: dict[str, list[Curve]], style, xlabel, ylabel, log_x=False):
    """Every seed thin, the mean over seeds thick, named at its end; None without data.

    The mean is drawn where all seeds have a point. On a linear axis early values far
    above the rest are cut off, so that the end of training can be read.
    """
    by_arm = {arm: seeds for arm, seeds in by_arm.items() if seeds}
    if not by_arm:
        return None
    with plt.rc_context(RULES):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = []
        for arm, seeds in by_arm.items():
            for seed in seeds:
                axes.plot(seed.x, seed.y, color=style[arm].color, lw=0.7, alpha=0.5)
            x, y = mean_curve(seeds)
            if not x:
                x, y = seeds[0]
            axes.plot(x, y, **style[arm]._asdict(), lw=2.2, ms=5, markevery=_marks(x))
            ends.append((x[-1], y[-1], arm))
        if log_x:
            axes.set_xscale("log", base=2)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            _limits(axes, [seed.y for seeds in by_arm.values() for seed in seeds])
        _finish(axes, xlabel, ylabel)
        name_ends(axes, ends, style)
    return figure


def final(means, seeds, yardsticks: dict[str, float], style, xlabel):
    """Mean with its interval and every seed of each arm; yardsticks as lines.

    means: arm -> Interval, or None where a run is missing; seeds: arm -> values.
    """
    values = [v for column in seeds.values() for v in column]
    if not values:
        return None
    span = max(max(values) - min(values), 0.02)
    low, high = min(values) - 1.2 * span, max(values) + 1.2 * span
    near = {name: v for name, v in yardsticks.items() if low <= v <= high}
    far = {name: v for name, v in yardsticks.items() if name not in near}
    with plt.rc_context(RULES):
        height = 1.9 + 0.6 * len(means)
        figure, axes = plt.subplots(figsize=(SIZE[0], height), layout="constrained")
        for row, (arm, mean) in enumerate(means.items()):
            color, marker, _ = style[arm]
            points = seeds[arm]
            at = dict(color=color, marker=marker, ls="none")
            axes.plot(points, [row + 0.2] * len(points), ms=6, mfc="none", **at)
            if mean is not None:
                axes.plot([mean.mean], [row - 0.12], ms=9, **at)
                text = _name(mean)
            else:
                text = "run missing"
            if mean is not None and mean.low is not None:
                bar = [mean.low, mean.high]
                axes.plot(bar, [row - 0.12] * 2, color=color, lw=2, marker="|", ms=9)
            axes.annotate(
                text,
                (1.02, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9.5,
            )
        axes.set_yticks(range(len(means)), list(means))
        axes.set_ylim(len(means) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        axes.margins(x=0.08)
        for value in near.values():
            axes.axvline(value, color="#555555", lw=1.2, ls=(0, (4, 3)), zorder=1)
        name_lines(axes, near)
        if far:
            listed = ", ".join(f"{name} {value:.2f}" for name, value in far.items())
            axes.set_title(f"off the scale: {listed}", fontsize=9.5, loc="left", pad=42)
    return figure


def costs(by_quantity: dict[str, dict[str, float]], style):
    """A small bar chart for each cost, arms in rows, values written at the bars."""
    by_quantity = {name: arms for name, arms in by_quantity.items() if arms}
    if not by_quantity:
        return None
    rows = max(len(arms) for arms in by_quantity.values())
    size = (SIZE[0], len(by_quantity) * (0.27 * rows + 0.5))
    with plt.rc_context(RULES):
        figure, panels = plt.subplots(
            len(by_quantity), figsize=size, layout="constrained", squeeze=False
        )
        for axes, (name, arms) in zip(panels[:, 0], by_quantity.items(), strict=True):
            place, values = np.arange(len(arms)), list(arms.values())
            bars = axes.barh(place, values, color=[style[arm].color for arm in arms])
            axes.bar_label(bars, [si(v) for v in values], padding=4, fontsize=9.5)
            axes.set_yticks(place, list(arms), fontsize=9.5)
            axes.set_title(name, fontsize=10.5, loc="left")
            axes.invert_yaxis()
            axes.set_xticks([])
            axes.grid(visible=False)
            axes.set_xlim(0, max(values) * 1.16 or 1)
            axes.spines["bottom"].set_visible(False)
    return figure


def state(by_arm: dict[str, Curve], style, xlabel, ylabel):
    """Bytes of state against tokens of context, both logarithmic."""
    by_arm = {arm: curve for arm, curve in by_arm.items() if curve.x}
    if not by_arm:
        return None
    with plt.rc_context(RULES):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = []
        for arm, (x, y) in by_arm.items():
            axes.plot(x, y, **style[arm]._asdict(), lw=2.2, ms=5)
            ends.append((x[-1], y[-1], arm))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        _finish(axes, xlabel, ylabel)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: binary(value)))
        name_ends(axes, ends, style)
    return figure


def mean_curve(seeds: list[Curve]) -> Curve:
    """Mean over seeds at the x that all of them have."""
    columns = [dict(zip(seed.x, seed.y, strict=True)) for seed in seeds]
    x = sorted(set.intersection(*(set(column) for column in columns)))
    return Curve(x, [float(np.mean([column[at] for column in columns])) for at in x])


def _marks(x) -> int:
    return max(len(x) // 8, 1)


def _limits(axes, columns) -> None:
    """Cut off early values that would flatten the rest."""
    late = max(max(y[len(y) // 4], y[-1]) for y in columns)
    low = min(min(y) for y in columns)
    worst = max(y[-1] for y in columns)
    top = min(max(max(y) for y in columns), late + 0.6 * (worst - low))
    room = 0.05 * (top - low) or 0.05
    axes.set_ylim(low - room, top + room)


def _finish(axes, xlabel, ylabel) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())


def _name(mean: Interval) -> str:
    if mean.low is None:
        return f"{mean.mean:.3f} (n = {mean.n})"
    return f"{mean.mean:.3f}\n{mean.low:.3f} to {mean.high:.3f}"
