"""A comparison's folder as report.md, report.html, table.csv and verdicts.json."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from lm import stats
from lm.intervals import SEEDS_FOR_INTERVAL
from lm.report import figures, summary, table, tasks
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
from lm.report.summary import differing, flat
from lm.results import Comparison, read_comparison


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
    table.write(comparison)
    _write_verdicts(comparison, judged)
    return folder / "report.html"


def _parts(c: Comparison, judged) -> list:
    plan = c.plan
    parts = [Heading(1, plan["question"]), Text(_source(plan)), _answer(c, judged)]
    if warnings := _warnings(c):
        parts.append(Warnings(warnings))
    for match, judged_on in c.tables.items():
        shown = tasks if c.task else summary
        parts += [Heading(2, f"Results at equal {match}"), shown.results(c, match)]
        parts += [Text(shown.legend(c)), summary.costs(c, match)]
        parts.append(Pictures(figures.draw(c, match, judged_on)))
        if pictures := figures.draw_tuning(c, match):
            parts += [Heading(3, TUNING), Pictures(pictures)]
    parts += [Heading(2, "What was held equal"), *_controls(c)]
    parts += [Heading(2, "Machine and data"), Bullets(_circumstances(c))]
    samples = [s for arm in plan["arms"] for s in _sample(c, arm)]
    return parts + ([Heading(2, "A sample of each arm"), *samples] if samples else [])


TUNING = "How the learning rates were chosen"


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
        if c.task:
            lines += tasks.rankings(c, match)
        else:
            lines += summary.ranking(c, match, c.headline, "bits per byte")
        lines += summary.beaten(c, match)
    return Box(parts + ([Bullets(lines)] if lines else []))


def _warnings(c: Comparison) -> list[str]:
    plan, lines = c.plan, []
    if plan.get("rate_note"):
        lines.append(f"Learning rate: {plan['rate_note']}.")
    for match in c.tables:
        if edge := ", ".join(sorted(c.tables[match].edge)):
            lines.append(
                f"Equal {match}: the best learning rate of {edge} lies on the edge of "
                "the grid; claims on it are withheld."
            )
    if c.reasons:
        done = len(plan["runs"]) - len(c.reasons)
        lines.append(f"{done} of {len(plan['runs'])} runs are finished.")
        lines += [f"Run {name}: {reason}." for name, reason in c.reasons.items()]
    if not c.task and not c.yardsticks["bits_per_byte"]:
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
    parts = [Text(may), *_cells(c.plan)]
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


def _cells(plan: dict) -> list[Text]:
    """What the arms are repeated over."""
    if not plan.get("cells"):
        return []
    told = [
        f"{name} ({', '.join(f'{key} = {value}' for key, value in cell.items())})"
        for name, cell in plan["cells"].items()
    ]
    text = f"Each arm is repeated over the cells {', '.join(told)}."
    if plan.get("reference") and plan.get("tune") == "once":
        text += f" Its learning rate was chosen in {plan['reference']}."
    return [Text(text)]


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
    lines += [_training(result) for result in list(c.results.values())[:1]]
    return lines


def _training(result: dict) -> str:
    """How much a run read, and how often it read the same."""
    tokens = result["step"] * result["config"]["train"]["batch_tokens"]
    task = result["data"].get("task")
    if task is not None:
        rows = task.get("examples")
        text = f"of {rows:,} distinct rows" if rows else "each row new"
        return f"training: {tokens:,} tokens, {text}"
    start, stop = result["data"]["splits"]["train"]
    return (
        f"training: {tokens:,} tokens, {tokens / (stop - start):.2f} times "
        f"the {stop - start:,} of the training text"
    )


def _sample(c: Comparison, arm: str) -> list[Sample]:
    """The last sample of an arm's first run that has one, of pairs its answers."""
    for match in c.tables:
        for run in c.runs(match, arm):
            test = c.results.get(run["id"], {}).get("test", {})
            if rows := test.get("same", {}).get("answers"):
                told = [f"{s}\n-> {a}\n(reference: {r})\n" for s, a, r in rows]
                return [Sample(f"{arm}, seed {run['seed']}", "\n".join(told))]
            paths = (c.folder / run["workdir"] / "samples").glob("*.txt")
            if last := max(paths, key=lambda path: int(path.stem), default=None):
                text = last.read_text(encoding="utf-8", errors="replace")
                title = f"{arm}, seed {run['seed']}, step {int(last.stem):,}"
                return [Sample(title, text)]
    return []


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
