"""One page over many comparisons: each claim, its verdict, its effect, its cost."""

import csv
import json
from pathlib import Path

from lm.errors import ConfigError
from lm.report.document import Grid, Heading, Link, Text, to_html, to_markdown
from lm.report.summary import NONE

TITLE = "Claims and verdicts"
LEGEND = (
    "One line a claim. Effect: what the claim's criterion measures, its mean over "
    "seeds with the 95 % t interval, unadjusted, and how many seeds there were; of a "
    "claim on every seed, the lowest and highest. Runs that chose learning rates are "
    "counted too; they enter no verdict."
)


# What stands between them in a README is written here, from verdicts.json alone.
BEGIN, END = "<!-- verdicts -->\n", "<!-- end of verdicts -->"


def write(root: Path, readme: Path | None = None) -> Path:
    """Writes index.md and index.html of the reports in `root`; returns the latter.

    Also the table of verdicts in `readme`. ConfigError where there are no reports.
    """
    folders = sorted(path.parent for path in root.glob("*/verdicts.json"))
    if not folders:
        raise ConfigError(f"{root} has no folder with a report in it")
    parts = [Heading(1, TITLE), Text(LEGEND)]
    for folder in folders:
        parts += _experiment(folder)
    (root / "index.md").write_text(to_markdown(parts), encoding="utf-8")
    page = root / "index.html"
    page.write_text(to_html(TITLE, parts), encoding="utf-8")
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        readme.write_text(with_verdicts(text, root), encoding="utf-8")
    return page


def with_verdicts(text: str, root: Path) -> str:
    """A README with the table of the verdicts in `root`: one line a claim."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"a README needs the lines {BEGIN.strip()!r} and {END!r}")
    rows = []
    for path in sorted(root.glob("*/verdicts.json")):
        claims = json.loads(path.read_text(encoding="utf-8"))["claims"]
        several = len({claim["match"] for claim in claims}) > 1
        link = f"[{path.parent.name}]({root}/{path.parent.name}/report.md)"
        for claim in claims:
            name = _named(claim, several)
            cells = (link, name, claim["paper"] or NONE, _effect(claim))
            rows.append(f"| {' | '.join(cells)} | {claim['verdict']} |\n")
            link = ""
    head = "| experiment | claim | the paper's | here | verdict |\n"
    rule = "|---|---|---|---|---|\n"
    return "".join([before, begin, head, rule, *rows, end, after])


def _experiment(folder: Path) -> list:
    """The question of a comparison, its paper and cost, and a row for each claim."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    claims = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    several = len(plan["matches"]) > 1
    rows = [
        [
            _named(claim, several),
            claim["verdict"],
            _effect(claim),
            claim["paper"] or NONE,
        ]
        for claim in claims["claims"]
    ]
    header = ["claim", "verdict", "effect", "the paper's"]
    if not any(claim["paper"] for claim in claims["claims"]):
        header, rows = header[:-1], [row[:-1] for row in rows]
    about = f"{plan['experiment']}, tier {plan['tier']}; {_cost(folder)}."
    paper = [Text(f"Paper: {plan['paper']}")] if plan.get("paper") else []
    name = f"{folder.name}/report"
    return [
        Heading(2, plan["question"]),
        *paper,
        Text(about),
        Grid(header, rows),
        Link("The report", f"{name}.md", f"{name}.html"),
    ]


def _named(claim: dict, several: bool) -> str:
    return claim["claim"] + (f" (equal {claim['match']})" if several else "")


def _effect(claim: dict) -> str:
    if claim["estimate"] is None:
        return claim.get("shown") or NONE
    if claim["low"] is None:
        return f"{claim['estimate']:+.3g} (n = {claim['n']})"
    interval = f"{claim['low']:+.3g} to {claim['high']:+.3g}"
    text = f"{claim['estimate']:+.3g} ({interval}, n = {claim['n']})"
    return text + (f"; {claim['seeds']} seeds decide" if claim.get("seeds") else "")


def _cost(folder: Path) -> str:
    with open(folder / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = sum(float(row["seconds"] or 0) for row in rows)
    return f"{len(rows)} runs, {seconds / 3600:.2g} hours of training in all"
