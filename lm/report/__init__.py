"""A comparison's folder as report.md, report.html, table.csv and verdicts.json."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from lm import stats
from lm.intervals import SEEDS_FOR_INTERVAL
from lm.report import figures
from lm.report.document import (
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
from lm.report.summary import beaten, costs, differing, flat, results, summary
from lm.results import Comparison, read_comparison

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
        parts += [Heading(2, f"Results at equal {match}"), results(c, match)]
        parts += [Text(LEGEND), costs(c, match)]
        parts.append(Pictures(figures.draw(c, match, table)))
    parts += [Heading(2, "What was held equal"), *_controls(c)]
    parts += [Heading(2, "Machine and data"), Bullets(_circumstances(c))]
    samples = [s for arm in plan["arms"] for s in _sample(c, arm)]
    return parts + ([Heading(2, "A sample of each arm"), *samples] if samples else [])


LEGEND = (
    "Bits per byte of the test text, lower is better: mean over seeds with its 95 % t "
    "interval. Window: state reset at each window, the headline. Stream: state, or a "
    "cache, carried. Over text: 95 % bootstrap interval over blocks of text, seeds "
    "averaged. An arm beats a yardstick (yes) if its whole interval is below, does "
    "not (no) if none of it is, else it is unclear. FLOPs are model FLOPs."
)


def _source(plan: dict) -> str:
    paper = f"Paper: {plan['paper'].rstrip('.')}. " if plan.get("paper") else ""
    return (
        f"{paper}Experiment: {plan['experiment']} ({plan['experiment_hash'][:12]}), "
        f"tier {plan['tier']}, {plan['kind']} comparison."
    )


def _answer(c: Comparison, judged) -> Box:
    parts = [Heading(2, "Answer")]
    for match, claim, verdict in judged:
        text = claim.text + (f" (equal {match})" if len(c.tables) > 1 else "")
        parts.append(Answer(verdict.verdict, text, verdict.numbers, claim.paper))
    if not judged:
        parts.append(Text("No claim was stated: figures only."))
    lines = []
    for match in c.tables:
        means = {arm: summary(c, match, arm, "window") for arm in c.plan["arms"]}
        order = sorted((m.mean, arm) for arm, (m, _, _) in means.items() if m)
        if order:
            listed = ", ".join(f"{arm} {mean:.3f}" for mean, arm in order)
            lines.append(f"At equal {match}, best first, bits per byte: {listed}.")
        lines += beaten(c, match)
    return Box(parts + ([Bullets(lines)] if lines else []))


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
    undeclared = [row[0] for row in differing(c) if row[-1] == "NO"]
    if undeclared and plan["kind"] != "recipes":
        lines.append(f"Arms differ outside the axes: {', '.join(undeclared)}.")
    return lines


def _controls(c: Comparison) -> list:
    axes = ", ".join(c.plan["axes"])
    may = f"Arms may differ in {axes}, and in the key that a match fits."
    if c.plan["kind"] == "recipes":
        may = "A comparison of recipes: arms may differ in any key; those are listed."
    parts = [Text(may)]
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
    if rows := differing(c):
        parts += [
            Text("Keys that differ between arms, from the runs' own configurations:"),
            Grid(["key", "match", *c.plan["arms"], "declared"], rows),
        ]
    return parts


def _circumstances(c: Comparison) -> list[str]:
    lines = []
    for result in list(c.results.values())[:1]:
        for key, value in result.get("machine", {}).items():
            if isinstance(value, dict):
                value = ", ".join(f"{name} {v}" for name, v in value.items())
            lines.append(f"{key}: {value}")
        data = flat(result.get("data", {}))
        lines.append("data: " + ", ".join(f"{key} {v}" for key, v in data.items()))
    if "train_bytes" in c.yardsticks:
        size = c.yardsticks["train_bytes"]
        lines.append(
            f"yardsticks: {size:,} training bytes, the models' own; "
            f"{c.yardsticks['heldout_bytes']:,} held-out bytes"
        )
        for result in list(c.results.values())[:1]:
            tokens = result["step"] * result["config"]["train"]["batch_tokens"]
            start, stop = result["data"]["splits"]["train"]
            lines.append(
                f"training: {tokens:,} tokens, {tokens / (stop - start):.2f} times "
                f"the {stop - start:,} of the training text"
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
    fixed.append("timed_tokens_per_second")
    with open(c.folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*fixed, *COLUMNS, "workdir"])
        for run in c.plan["runs"]:
            result = c.results.get(run["id"], {})
            edge = c.best(run["match"], run["arm"]).get("edge", "")
            status = result.get("status", "missing")
            row = [run["id"], run["match"], run["arm"], run["seed"], run["lr"], edge]
            row += [run["tuning"], status, c.reasons.get(run["id"], "")]
            timed = c.timed.get(run["match"], {}).get(run["arm"], {})
            row.append(timed.get("tokens_per_second", ""))
            leaves = flat(result)
            row += [leaves.get(path, "") for path in COLUMNS.values()]
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
