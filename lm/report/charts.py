"""Figures of tasks and of tuning, in the styles of lm.report.plots."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lm.intervals import Interval
from lm.report.labels import binary, name_ends, si
from lm.report.plots import RULES, SIZE, Curve, Style, mean_curve

GREY = Style("#555555", "", (0, (4, 3)))
PANELS = 3  # tests side by side
MAP = "cividis"  # uniform in lightness, the same to the colour-blind


def dots(tests, means, seeds, chance, style, xlabel):
    """A panel for each test, arms in rows: mean, its interval, every seed.

    Args:
      tests: test -> title of its panel.
      means, seeds: test -> arm -> Interval or None, and its values.
      chance: test -> the value of guessing.
    """
    values = [v for column in seeds.values() for arm in column.values() for v in arm]
    if not values:
        return None
    arms = list(next(iter(means.values())))
    across, down = min(len(tests), PANELS), -(-len(tests) // PANELS)
    size = (SIZE[0], down * (1.1 + 0.42 * len(arms)))
    with plt.rc_context(RULES):
        figure, panels = plt.subplots(
            down, across, figsize=size, layout="constrained", sharex=True, sharey=True
        )
        panels = np.ravel(panels)
        for axes, (test, title) in zip(panels, tests.items(), strict=False):
            for row, arm in enumerate(arms):
                color, marker, _ = style[arm]
                points, mean = seeds[test][arm], means[test][arm]
                at = dict(color=color, marker=marker, ls="none", clip_on=False)
                if points:  # an empty unclipped line has no bounds to lay out
                    y = [row + 0.2] * len(points)
                    axes.plot(points, y, ms=5, mfc="none", **at)
                if mean is None:
                    axes.text(
                        0.03,
                        row - 0.25,
                        "run missing",
                        fontsize=8.5,
                        color=color,
                        bbox=dict(fc="white", ec="none", pad=1),
                        transform=axes.get_yaxis_transform(),
                    )
                    continue
                axes.plot([mean.mean], [row - 0.15], ms=6, **at)
                if mean.low is not None:
                    bar = [mean.low, mean.high]
                    axes.plot(
                        bar,
                        [row - 0.15] * 2,
                        color=color,
                        lw=2,
                        marker="|",
                        ms=11,
                        clip_on=False,
                    )
            if test in chance:
                axes.axvline(chance[test], color=GREY.color, lw=1.2, ls=GREY.linestyle)
            axes.set_title(title, fontsize=10.5)
            axes.grid(axis="y", visible=False)
            axes.xaxis.set_major_locator(MaxNLocator(2 if across > 2 else 4))
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].set_ylim(len(arms) - 0.4, -0.6)
        panels[0].margins(x=0.08)
        for axes in panels[len(tests) :]:
            axes.set_visible(False)
        figure.supxlabel(xlabel, fontsize=11)
    return figure


def lines(
    by_arm: dict[str, list[Curve]],
    style,
    xlabel: str,
    ylabel: str,
    chance: Curve | float | None = None,
    places: bool = False,
    training: float | None = None,
):
    """Every seed thin, the mean thick, chance dashed; None without data.

    Args:
      places: mark x where there are points; base 2 if they span 4 times or more.
      training: x of a vertical line.
    """
    by_arm = {arm: seeds for arm, seeds in by_arm.items() if seeds}
    if not by_arm:
        return None
    with plt.rc_context(RULES):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = []
        for arm, seeds in by_arm.items():
            for seed in seeds:
                thin = dict(lw=0.7, alpha=0.5)
                if places:
                    thin |= dict(marker=style[arm].marker, ms=3)
                axes.plot(seed.x, seed.y, color=style[arm].color, **thin)
            mean = mean_curve(seeds)
            x, y = mean if mean.x else seeds[0]
            every = 1 if places else max(len(x) // 8, 1)
            axes.plot(x, y, **style[arm]._asdict(), lw=2.2, ms=6, markevery=every)
            ends.append((x[-1], y[-1], arm))
        used = sorted(
            {x for seeds in by_arm.values() for seed in seeds for x in seed.x}
        )
        if isinstance(chance, int | float):
            chance = Curve([used[0], used[-1]], [chance, chance])
        if chance:
            axes.plot(*chance, color=GREY.color, ls=GREY.linestyle, lw=1.2, zorder=1)
            ends.append((chance.x[-1], chance.y[-1], "chance"))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if places:
            _mark_places(axes, used)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
        if training is not None:
            axes.axvline(training, color=GREY.color, lw=1.2, ls=":", zorder=1)
            axes.annotate(
                "training",
                (training, 1.01),
                ha="center",
                va="bottom",
                xycoords=("data", "axes fraction"),
                fontsize=9.5,
            )
        name_ends(axes, ends, style | {"chance": GREY})
    return figure


def heat(rows, columns, values_RxC, xlabel, ylabel, label):
    """Numbers in coloured cells with a named bar; NaN: no value, a dash."""
    values_RxC = np.asarray(values_RxC, float)
    if np.isnan(values_RxC).all():
        return None
    size = (SIZE[0], 1.6 + 0.36 * len(rows))
    with plt.rc_context(RULES | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        colours = colormaps[MAP].with_extremes(bad="white")
        lowest = min(np.floor(10 * np.nanmin(values_RxC)) / 10, 0.9)
        image = axes.imshow(values_RxC, colours, aspect="auto", vmin=lowest, vmax=1)
        for (row, column), value in np.ndenumerate(values_RxC):
            text = "–" if np.isnan(value) else f"{value:.3f}"
            ink = _ink(image.cmap(image.norm(value)) if text != "–" else (1, 1, 1))
            axes.text(column, row, text, ha="center", va="center", color=ink)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        figure.colorbar(image, ax=axes, label=label, fraction=0.06, pad=0.02)
    return figure


def against_state(
    points: dict[str, list[tuple[float, Interval]]], style, ylabel, chance
):
    """Mean and interval against bytes of state; an arm's points are joined."""
    sizes = {size for arm in points.values() for size, _ in arm}
    if len(sizes) < 2:
        return None
    with plt.rc_context(RULES):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        for arm, at in points.items():
            if at:
                x, means = zip(*sorted(at), strict=True)
                y = [mean.mean for mean in means]
                ends = [(m.mean - m.low, m.high - m.mean) for m in means]
                axes.errorbar(
                    x,
                    y,
                    np.transpose(ends),
                    **style[arm]._asdict(),
                    lw=1.8,
                    ms=7,
                    capsize=4,
                    elinewidth=1.5,
                    label=arm,
                )
        if chance is not None:
            line = dict(color=GREY.color, ls=GREY.linestyle, lw=1.2, zorder=1)
            axes.axhline(chance, **line, label="chance")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: binary(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("state of one sequence")
        axes.set_ylabel(ylabel)
        figure.legend(
            loc="outside right upper", frameon=False, fontsize=9.5, handlelength=3
        )
    return figure


def _mark_places(axes, used: list[float]) -> None:
    if used[0] > 0 and used[-1] >= 4 * used[0]:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(used, [f"{x:,g}" for x in used])


def _ink(colour) -> str:
    """Black or white, whichever contrasts more with a colour (WCAG 2)."""
    rgb_3 = np.asarray(colour[:3])
    linear_3 = np.where(
        rgb_3 <= 0.04045, rgb_3 / 12.92, ((rgb_3 + 0.055) / 1.055) ** 2.4
    )
    light = linear_3 @ (0.2126, 0.7152, 0.0722)
    return "black" if (light + 0.05) ** 2 > 0.05 * 1.05 else "white"
