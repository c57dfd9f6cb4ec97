"""Numbers in short, and names set beside lines so that none covers another."""

import math

import numpy as np


def si(value: float, digits: int = 3) -> str:
    """A number with an SI prefix: 1234567 -> "1.23 M"."""
    if value == 0:
        return "0"
    power = min(max(int(math.floor(math.log10(abs(value)) / 3)), 0), 6)
    scaled = value / 1000**power
    decimals = max(digits - 1 - int(math.floor(math.log10(abs(scaled)))), 0)
    text = f"{scaled:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {' kMGTPE'[power]}".rstrip()


def binary(value: float) -> str:
    """Bytes with a binary prefix: 2048 -> "2 KiB"."""
    power = min(int(math.log2(value) // 10), 4) if value >= 1 else 0
    return f"{value / 1024**power:g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def spread(places: list[float], gap: float, lowest: float = -math.inf) -> list[float]:
    """Places in order, moved apart to at least `gap`, their centre kept.

    All of them are moved up if one would be below `lowest`.
    """
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, float)
    for _ in range(200):
        for left, right in zip(order[:-1], order[1:], strict=True):
            lack = gap - (moved[right] - moved[left])
            if lack > 1e-9:
                moved[left] -= lack / 2
                moved[right] += lack / 2
    return (moved + max(lowest - moved.min(initial=math.inf), 0)).tolist()


def name_ends(axes, ends, style) -> None:
    """Arm names in the right margin, at the height of their lines' ends."""
    axes.autoscale_view()  # or the limits are those before the lines were drawn
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = [to_fraction.transform((x, y))[1] for x, y, _ in ends]
    for (_, _, arm), height in zip(ends, spread(heights, 0.065, 0.02), strict=True):
        axes.annotate(
            arm,
            (1.02, height),
            xycoords="axes fraction",
            color=style[arm].color,
            va="center",
            fontweight="bold",
        )


def name_lines(axes, lines: dict[str, float]) -> None:
    """Names of vertical lines above the axes, moved apart, tied to their lines."""
    if not lines:
        return
    low, high = axes.get_xlim()
    fractions = [(value - low) / (high - low) for value in lines.values()]
    places = spread(fractions, 0.23)
    for (name, value), at, place in zip(lines.items(), fractions, places, strict=True):
        axes.annotate(
            f"{name} {value:.2f}",
            (at, 1.0),
            (place, 1.07),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="center",
            fontsize=9.5,
            color="#444444",
            arrowprops=dict(arrowstyle="-", color="#999999", lw=0.8),
        )
