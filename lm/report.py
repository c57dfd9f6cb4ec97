"""A comparison's folder as report.md, report.html, table.csv and verdicts.json."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from lm import figures, stats
from lm.document import (
    Answer,
    Box,
    Bullets,
    Grid,
    Heading,
    Pictures,
    Sample,
    Text,
    Warnings,
    to_html,
    to_markdown,
)
from lm.intervals import (
    SEEDS_FOR_INTERVAL,
    Interval,
    bootstrap_blocks,
    mean_interval,
)
from lm.plots import si
from lm.results import Comparison, read_comparison

NONE = "–"
COLUMNS = {  # table.csv: its name -> the path into result.json
    "params": "count.params",
    "params_non_embedding": "count.params_non_embedding",
    "flops_per_token": "count.flops_per_token",
    "train_flops": "count.train_flops",
    "state_bytes": "count.state_bytes",
    "decode_flops_per_token": "count.decode_flops_per_token",
    "tokens_per_second": "speed.tokens_per_second",
    "seconds": "speed.seconds",
    "compile_seconds": "speed.compile_seconds",
    "device": "machine.device",
    "validation_window_bits_per_byte": "validation.window.bits_per_byte",
    "test_window_bits_per_byte": "test.window.bits_per_byte",
    "test_window_nats_per_token": "test.window.nats_per_token",
    "test_window_tokens": "test.window.tokens",
    "test_window_bytes": "test.window.bytes",
    "test_stream_bits_per_byte": "test.stream.bits_per_byte",
    "test_stream_cache": "test.stream.cache",
    "fingerprint": "fingerprint",
}


def write(folder: Path, claims: Sequence[stats.Claim] = ()) -> Path:
    """Write the report of a comparison, finished or not; returns report.html."""
    folder = Path(folder)
    comparison = read_comparison(folder)
    pairs = [(match, claim) for match in comparison.tables for claim in claims]
    verdicts = stats.judge([(c.criterion, comparison.tables[m]) for m, c in pairs])
    judged = [(m, c, v) for (m, c), v in zip(pairs, verdicts, strict=True)]
    parts = _parts(comparison, judged)
    (folder / "report.md").write_text(to_markdown(parts), encoding="utf-8")
    page = to_html(comparison.plan["question"], parts)
    (folder / "report.html").write_text(page, encoding="utf-8")
    _write_table(comparison)
    _write_verdicts(comparison, judged)
    return folder / "report.html"


def _parts(c: Comparison, judged) -> list:
    plan = c.plan
    parts = [Heading(1, plan["question"]), Text(_source(plan)), _answer(c, judged)]
    if warnings := _warnings(c):
        parts.append(Warnings(warnings))
    for match, table in c.tables.items():
        parts += [Heading(2, f"Results at equal {match}"), _results(c, match)]
        parts.append(Text(LEGEND))
        parts.append(Pictures(figures.draw(c, match, table)))
    parts += [Heading(2, "What was held equal"), *_controls(c)]
    parts += [Heading(2, "Machine and data"), Bullets(_circumstances(c))]
    samples = [s for arm in plan["arms"] for s in _sample(c, arm)]
    return parts + ([Heading(2, "A sample of each arm"), *samples] if samples else [])


LEGEND = (
    "Bits per byte of the test text, lower is better: mean over seeds with its 95 % t "
    "interval. Window: state reset at each window, the headline. Stream: state, or a "
    "cache, carried. Over text: 95 % bootstrap interval over blocks of text, seeds "
    "averaged. An arm beats a yardstick (yes) when its whole interval is below it, does "
    "not (no) when none of it is, else it is unclear. FLOPs are model FLOPs."
)


def _source(plan: dict) -> str:
    paper = f"Paper: {plan['paper']}. " if plan.get("paper") else ""
    return (
        f"{paper}Experiment: {plan['experiment']} ({plan['experiment_hash'][:12]}), "
        f"tier {plan['tier']}, {plan['kind']} comparison."
    )


def _answer(c: Comparison, judged) -> Box:
    parts = [Heading(2, "Answer")]
    for match, claim, verdict in judged:
        text = f"{claim.text} (equal {match})"
        parts.append(Answer(verdict.verdict, text, verdict.sentence, claim.paper))
    if not judged:
        parts.append(Text("No claim was stated: figures only."))
    lines = []
    for match in c.tables:
        means = {arm: summary(c, match, arm, "window") for arm in c.plan["arms"]}
        order = sorted((m.mean, arm) for arm, (m, _, _) in means.items() if m)
        if order:
            listed = ", ".join(f"{arm} {mean:.3f}" for mean, arm in order)
            lines.append(f"Bits per byte at equal {match}, best first: {listed}.")
        lines += _beaten(c, match)
    return Box(parts + ([Bullets(lines)] if lines else []))


def _beaten(c: Comparison, match: str) -> list[str]:
    """A sentence for each yardstick: who does not beat it, who does."""
    lines = []
    for name, value in c.yardsticks["bits_per_byte"].items():
        said = {arm: against(c, match, arm, value) for arm in c.plan["arms"]}
        groups = [
            (verb, ", ".join(arm for arm, word in said.items() if word == key))
            for key, verb in (
                ("no", "not beaten by"),
                ("unclear", "unclear for"),
                ("yes", "beaten by"),
                (NONE, "no figure yet for"),
            )
        ]
        listed = "; ".join(f"{verb} {arms}" for verb, arms in groups if arms)
        lines.append(f"{name} ({value:.3f}), equal {match}: {listed}.")
    return lines


def _warnings(c: Comparison) -> list[str]:
    plan, lines = c.plan, []
    if plan.get("rate_note"):
        lines.append(f"Learning rate: {plan['rate_note']}.")
    for match, table in c.tables.items():
        if edge := ", ".join(sorted(table.edge)):
            lines.append(
                f"Equal {match}: the best learning rate of {edge} lies on the edge of "
                "the grid; claims on it are withheld."
            )
    if c.reasons:
        done = len(plan["runs"]) - len(c.reasons)
        lines.append(f"{done} of {len(plan['runs'])} runs are finished.")
        lines += [f"Run {name}: {reason}." for name, reason in c.reasons.items()]
    if not c.yardsticks["bits_per_byte"]:
        lines.append("The yardsticks are not measured yet.")
    if len(plan["seeds"]) < SEEDS_FOR_INTERVAL:
        lines.append(f"{len(plan['seeds'])} seeds: points are shown, no interval.")
    for what, path in (
        ("devices", ("machine", "device")),
        ("data", ("data", "fingerprint")),
    ):
        found = {str(r.get(path[0], {}).get(path[1])) for r in c.results.values()}
        if len(found) > 1:
            lines.append(f"The runs used different {what}: {', '.join(sorted(found))}.")
    if undeclared := [row[0] for row in _differing(c) if row[-1] == "NO"]:
        lines.append(f"Arms differ outside the axes: {', '.join(undeclared)}.")
    return lines


def summary(c: Comparison, match: str, arm: str, protocol: str):
    """(Interval or None, values by seed, reasons of missing ones) of an arm's test."""
    metric = f"test.{protocol}.bits_per_byte"
    values, missing = c.tables[match].column(arm, metric)
    mean = None if missing else mean_interval(list(values.values()))
    return mean, list(values.values()), missing


def against(c: Comparison, match: str, arm: str, yardstick: float) -> str:
    """Whether an arm is below a yardstick: yes, no, unclear, or `NONE` without runs.

    Below n = 3 the extreme seeds stand for the interval.
    """
    mean, values, _ = summary(c, match, arm, "window")
    if mean is None:
        return NONE
    low, high = mean.low, mean.high
    if low is None:
        low, high = min(values), max(values)
    return "yes" if high < yardstick else "no" if low >= yardstick else "unclear"


def _cell(mean: Interval | None, values, missing) -> str:
    points = ", ".join(f"{v:.3f}" for v in values)
    if mean is None:
        why = missing[0].rsplit(": ", 1)[-1]
        return (
            f"{NONE} (points {points}; runs missing)" if points else f"{NONE} ({why})"
        )
    if mean.low is None:
        return f"{mean.mean:.3f} (points {points})"
    return f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})"


def over_text(results: list[dict]) -> str:
    """Bootstrap interval over blocks of text, the nats of each averaged over seeds."""
    blocks = [result["test"]["window"]["blocks"] for result in results]
    if not blocks:
        return NONE
    if len({tuple(size for _, size in seed) for seed in blocks}) > 1:
        return "blocks differ"
    mean = [
        [sum(nats for nats, _ in same) / len(same), same[0][1]]
        for same in zip(*blocks, strict=True)
    ]
    interval = bootstrap_blocks(mean, seed=0)
    if interval.low is None:
        return f"{NONE} ({interval.n} blocks)"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _results(c: Comparison, match: str) -> Grid:
    yardsticks = c.yardsticks["bits_per_byte"]
    header = ["arm", "window", "over text", "stream"]
    header += [f"beats {name} ({value:.2f})" for name, value in yardsticks.items()]
    header += ["parameters", "without embeddings", "training FLOPs", "state bytes"]
    header += ["decode FLOPs a token", "tokens/s", "device", "seeds", "learning rate"]
    rows = []
    for arm in c.plan["arms"]:
        done, best = c.done(match, arm), c.best(match, arm)
        window, stream = (summary(c, match, arm, p) for p in ("window", "stream"))
        row = [arm, _cell(*window), over_text(done), _cell(*stream)]
        row += [against(c, match, arm, value) for value in yardsticks.values()]
        seeds = ", ".join(str(run["seed"]) for run in c.runs(match, arm))
        rate = f"{best['lr']:g}{' (edge)' if best['edge'] else ''}" if best else NONE
        rows.append(row + _costs(done) + [seeds, rate])
    return Grid(header, rows)


def _costs(done: list[dict]) -> list[str]:
    if not done:
        return [NONE] * 7
    count = done[0]["count"]
    speed = sum(r["speed"]["tokens_per_second"] for r in done) / len(done)
    return [
        f"{count['params']:,}",
        f"{count['params_non_embedding']:,}",
        si(count["train_flops"]),
        f"{count['state_bytes']:,}",
        si(count["decode_flops_per_token"]),
        f"{speed:,.0f}",
        ", ".join(sorted({r["machine"]["device"] for r in done})),
    ]


def _controls(c: Comparison) -> list:
    parts = [
        Text(f"Arms may differ in: {', '.join(c.plan['axes'])}; in nothing else but the"
             " key that a match fits.")
    ]  # fmt: skip
    rows = [
        [
            f"{m['quantity']}, {arm}",
            f"{m['target']:,}",
            f"{fit['achieved']:,}",
            f"{100 * fit['error']:.2f} %",
            f"{m['by']} = {fit['value']}",
        ]
        for m in c.plan["matches"]
        for arm, fit in m.get("fitted", {}).items()
    ]
    if rows:
        parts.append(Grid(["held equal", "target", "achieved", "error", "by"], rows))
    if differing := _differing(c):
        parts += [
            Text("Keys that differ between arms, from the runs' own configurations:"),
            Grid(["key", "match", *c.plan["arms"], "declared"], differing),
        ]
    return parts


def _differing(c: Comparison) -> list[list[str]]:
    """A row for each configuration key that differs between arms at one seed."""
    rows = []
    for m in c.plan["matches"]:
        done = {arm: c.done(m["name"], arm) for arm in c.plan["arms"]}
        flat = {arm: _flat(runs[0]["config"]) for arm, runs in done.items() if runs}
        for key in sorted({key for config in flat.values() for key in config}):
            cells = {a: str(flat[a].get(key)) if a in flat else NONE for a in done}
            if len({cells[arm] for arm in flat}) < 2 or key.split(".")[0] == "run":
                continue
            allowed = [*c.plan["axes"], m["by"], "name"]
            declared = any(f"{key}.".startswith(f"{axis}.") for axis in allowed)
            rows.append([key, m["name"], *cells.values(), "yes" if declared else "NO"])
    return rows


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _circumstances(c: Comparison) -> list[str]:
    lines = []
    machines = [r["machine"] for r in c.results.values() if "machine" in r]
    for key, value in _flat(machines[0]).items() if machines else ():
        lines.append(f"{key}: {value}")
    for result in list(c.results.values())[:1]:
        data = _flat(result.get("data", {}))
        lines += [f"data {key}: {value}" for key, value in data.items()]
    if "train_bytes" in c.yardsticks:
        lines.append(
            f"yardsticks: {c.yardsticks['train_bytes']:,} training bytes, the models' "
            f"own; {c.yardsticks['heldout_bytes']:,} held-out bytes"
        )
    return lines


def _sample(c: Comparison, arm: str) -> list[Sample]:
    """The last sample of an arm's first run that has one."""
    for match in c.tables:
        for run in c.runs(match, arm):
            paths = (c.folder / run["workdir"] / "samples").glob("*.txt")
            if last := max(paths, key=lambda path: int(path.stem), default=None):
                text = last.read_text(encoding="utf-8", errors="replace")
                title = f"{arm}, seed {run['seed']}, step {int(last.stem):,}"
                return [Sample(title, text)]
    return []


def _write_table(c: Comparison) -> None:
    """table.csv: one row per run; an empty cell where a run has no figure."""
    fixed = ["run", "match", "arm", "seed", "lr", "edge", "tuning", "status", "reason"]
    with open(c.folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*fixed, *COLUMNS, "workdir"])
        for run in c.plan["runs"]:
            result = c.results.get(run["id"], {})
            edge = c.best(run["match"], run["arm"]).get("edge", "")
            status = result.get("status", "missing")
            row = [run["id"], run["match"], run["arm"], run["seed"], run["lr"], edge]
            row += [run["tuning"], status, c.reasons.get(run["id"], "")]
            flat = _flat(result)
            row += [flat.get(path, "") for path in COLUMNS.values()]
            writer.writerow([*row, run["workdir"]])


def _write_verdicts(c: Comparison, judged) -> None:
    rows = [
        {"match": match, "claim": claim.text, "paper": claim.paper}
        | {"criterion": repr(claim.criterion), "sentence": verdict.sentence}
        | dataclasses.asdict(verdict)
        for match, claim, verdict in judged
    ]
    content = {
        "experiment": c.plan["experiment"],
        "experiment_hash": c.plan["experiment_hash"],
        "claims": rows,
    }
    text = json.dumps(content, indent=1)
    (c.folder / "verdicts.json").write_text(text, encoding="utf-8")
