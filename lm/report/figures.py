"""The figures of one matching: from a comparison's results to PNG and SVG."""

import math
from pathlib import Path

from lm.intervals import mean_interval
from lm.report import plots, tasks, tuning
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
    style = _styles(c)
    drawn = tasks.drawn(c, match, style) if c.task else _text(c, match, table, style)
    names = {c.base(arm): arm for arm in c.cells[c.shown]}
    of_cell = f" Cell {c.shown}." if c.shown else ""
    protocol = c.headline.split(".")[1]
    drawn["position"] = (
        plots.curves(
            {
                name: _by_position(c.done(match, arm), protocol)
                for name, arm in names.items()
            },
            style,
            "place in the row (1 = first token)",
            "test loss (nats per token)",
            log_x=True,
        ),
        "Loss by position: what more context is worth to each arm." + of_cell,
    )
    drawn["state"] = (
        plots.state(
            {name: _state(c.done(match, arm)) for name, arm in names.items()},
            style,
            "context (tokens)",
            "state of one sequence",
        ),
        "Memory of one sequence in decoding against its length, both logarithmic."
        + of_cell,
    )
    drawn["costs"] = (
        plots.costs(_costs(c, match, names), style),
        "What each arm costs. Speed: "
        + ("timed alone." if match in c.timed else "mean of runs side by side.")
        + of_cell,
    )
    return _save(c, match, drawn)


def draw_tuning(c: Comparison, match: str) -> list[Picture]:
    """Figures of how one matching's learning rates were chosen; [] where none was."""
    return _save(c, match, tuning.drawn(c, match, _styles(c)))


def _styles(c: Comparison) -> dict[str, plots.Style]:
    """Style of each arm, the same in all its cells, and of its name without one."""
    arms = list(c.plan["arms"])
    style = plots.styles(dict.fromkeys(c.base(arm) for arm in arms))
    return style | {arm: style[c.base(arm)] for arm in arms}


def _save(c: Comparison, match: str, drawn: dict[str, tuple]) -> list[Picture]:
    (c.folder / "figures").mkdir(exist_ok=True)
    pictures = []
    for name, (figure, caption) in drawn.items():
        if figure is not None:
            path = Path("figures") / f"{match}-{name}.png"
            png, svg = plots.render(figure)
            (c.folder / path).write_bytes(png)
            pictures.append(Picture(str(path), caption, svg))
    return pictures


def _text(c: Comparison, match: str, table: Table, style) -> dict[str, tuple]:
    """{name: (figure, caption)} of what is measured on text."""
    arms = c.plan["arms"]
    columns = {arm: table.column(arm, c.headline) for arm in arms}
    seeds = {arm: list(values.values()) for arm, (values, _) in columns.items()}
    means = {a: None if columns[a][1] else mean_interval(seeds[a]) for a in arms}
    names = {c.base(arm): arm for arm in c.cells[c.shown]}
    tokens, flops = _curves(c, match, names)
    of_cell = f" Cell {c.shown}." if c.shown else ""
    return {
        "final": (
            plots.final(means, seeds, table.yardsticks, style, f"test {BITS} (window)"),
            "Test bits per byte: mean and 95 % t interval over seeds (filled), every "
            "seed (open), yardsticks (dashed). Lower is better.",
        ),
        "tokens": (
            plots.curves(tokens, style, "tokens trained on", f"validation {BITS}"),
            "Validation bits per byte while training: seeds thin, their mean thick."
            + of_cell,
        ),
        "flops": (
            plots.curves(flops, style, "model FLOPs of training", f"validation {BITS}"),
            "The same over training compute: three times the model FLOPs of a forward "
            "pass, for each token.",
        ),
    }


def _curves(c: Comparison, match: str, names: dict[str, str]):
    """Validation curves of every seed, over tokens and over model FLOPs of training."""
    tokens, flops = {name: [] for name in names}, {name: [] for name in names}
    for name, arm in names.items():
        done = c.done(match, arm)
        for run in c.runs(match, arm):
            rows = [r for r in c.rows.get(run["id"], []) if r["kind"] == "validation"]
            if not rows:
                continue
            x, y = [r["tokens"] for r in rows], [r["bits_per_byte"] for r in rows]
            tokens[name].append(Curve(x, y))
            if done:
                cost = 3 * done[0]["count"]["flops_per_token"]
                flops[name].append(Curve([cost * at for at in x], y))
    return tokens, flops


def _by_position(results: list[dict], protocol: str) -> list[Curve]:
    """Curve of each seed; a bucket stands at its geometric middle, counted from 1."""
    curves = []
    for result in results:
        rows = result["test"][protocol]["by_position"]
        x = [math.sqrt((first + 1) * (last + 1)) for first, last, _ in rows]
        curves.append(Curve(x, [nats for _, _, nats in rows]))
    return curves


def _state(results: list[dict]) -> Curve:
    rows = results[0]["count"]["state_by_context"] if results else []
    rows = [(tokens, size) for tokens, size in rows if tokens > 0 and size > 0]
    return Curve([tokens for tokens, _ in rows], [size for _, size in rows])


def _costs(c: Comparison, match: str, names: dict[str, str]):
    """{quantity: {name: value}} of the arms, {name: arm}, that have a finished run."""
    done = {name: c.done(match, arm) for name, arm in names.items()}
    done = {name: results for name, results in done.items() if results}
    values = {
        what: {name: results[0]["count"][key] for name, results in done.items()}
        for what, key in COSTS.items()
    }
    what = "training speed, tokens per second"
    values[what] = {name: c.speed(match, names[name]) for name in done}
    return values
