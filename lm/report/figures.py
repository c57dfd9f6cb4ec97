"""The figures of one matching: from a comparison's results to PNG and SVG."""

import math
from pathlib import Path

from lm.intervals import mean_interval
from lm.report import plots
from lm.report.document import Picture
from lm.report.plots import Curve
from lm.results import Comparison, Table

BITS = "bits per byte"
COSTS = {
    "parameters": "params",
    "training FLOPs": "train_flops",
    "state, bytes at the training context": "state_bytes",
    "decoding, FLOPs a token": "decode_flops_per_token",
}


def draw(c: Comparison, match: str, table: Table) -> list[Picture]:
    """Figures of one matching, also written to figures/MATCH-NAME.png."""
    style = plots.styles(c.plan["arms"])
    columns = {arm: table.column(arm, "test.window.bits_per_byte") for arm in style}
    seeds = {arm: list(values.values()) for arm, (values, _) in columns.items()}
    means = {a: None if columns[a][1] else mean_interval(seeds[a]) for a in style}
    tokens, flops = _curves(c, match, style)
    drawn = {
        "final": (
            plots.final(means, seeds, table.yardsticks, style, f"test {BITS} (window)"),
            "Test bits per byte: mean and 95 % t interval over seeds (filled), every "
            "seed (open), yardsticks (dashed). Lower is better.",
        ),
        "tokens": (
            plots.curves(tokens, style, "tokens trained on", f"validation {BITS}"),
            "Validation bits per byte while training: seeds thin, their mean thick.",
        ),
        "flops": (
            plots.curves(flops, style, "model FLOPs of training", f"validation {BITS}"),
            "The same over training compute: three times the model FLOPs of a forward "
            "pass, for each token.",
        ),
        "position": (
            plots.curves(
                {arm: _by_position(c.done(match, arm)) for arm in style},
                style,
                "place in the window (1 = first predicted token)",
                "test loss (nats per token)",
                log_x=True,
            ),
            "Loss by position in the window: what more context is worth to each arm.",
        ),
        "state": (
            plots.state(
                {arm: _state(c.done(match, arm)) for arm in style},
                style,
                "context (tokens)",
                "state of one sequence",
            ),
            "Memory of one sequence in decoding against its length, both logarithmic.",
        ),
        "costs": (
            plots.costs(_costs(c, match, style), style),
            "What each arm costs. Speed: "
            + ("timed alone." if match in c.timed else "mean of runs side by side."),
        ),
    }
    (c.folder / "figures").mkdir(exist_ok=True)
    pictures = []
    for name, (figure, caption) in drawn.items():
        if figure is not None:
            path = Path("figures") / f"{match}-{name}.png"
            png, svg = plots.render(figure)
            (c.folder / path).write_bytes(png)
            pictures.append(Picture(str(path), caption, svg))
    return pictures


def _curves(c: Comparison, match: str, arms):
    """Validation curves of every seed, over tokens and over model FLOPs of training."""
    tokens, flops = {arm: [] for arm in arms}, {arm: [] for arm in arms}
    for arm in arms:
        done = c.done(match, arm)
        for run in c.runs(match, arm):
            rows = [r for r in c.rows.get(run["id"], []) if r["kind"] == "validation"]
            if not rows:
                continue
            x, y = [r["tokens"] for r in rows], [r["bits_per_byte"] for r in rows]
            tokens[arm].append(Curve(x, y))
            if done:
                cost = 3 * done[0]["count"]["flops_per_token"]
                flops[arm].append(Curve([cost * at for at in x], y))
    return tokens, flops


def _by_position(results: list[dict]) -> list[Curve]:
    """Curve of each seed; a bucket stands at its geometric middle, counted from 1."""
    curves = []
    for result in results:
        rows = result["test"]["window"]["by_position"]
        x = [math.sqrt((first + 1) * (last + 1)) for first, last, _ in rows]
        curves.append(Curve(x, [nats for _, _, nats in rows]))
    return curves


def _state(results: list[dict]) -> Curve:
    rows = results[0]["count"]["state_by_context"] if results else []
    rows = [(tokens, size) for tokens, size in rows if tokens > 0 and size > 0]
    return Curve([tokens for tokens, _ in rows], [size for _, size in rows])


def _costs(c: Comparison, match: str, arms) -> dict[str, dict[str, float]]:
    """{quantity: {arm: value}} of the arms that have a finished run."""
    done = {arm: c.done(match, arm) for arm in arms}
    done = {arm: results for arm, results in done.items() if results}
    values = {
        name: {arm: results[0]["count"][key] for arm, results in done.items()}
        for name, key in COSTS.items()
    }
    name = "training speed, tokens per second"
    values[name] = {arm: c.speed(match, arm) for arm in done}
    return values
