"""Reading what runs and comparisons left behind: results, metrics rows, folders."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


def read_json(path: Path) -> dict:
    """A JSON file's object; empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_lines(path: Path) -> list[dict]:
    """Objects of a JSONL file; a torn last line is dropped, another is a ValueError."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it: the writer was cut off
                break
            raise ValueError(
                f"{path}: line {number} is not JSON ({error}); delete the line"
            ) from error
    return rows


def read_rows(path: Path) -> list[dict]:
    """Rows of metrics.jsonl by step, the last one of each (kind, step)."""
    rows = {(row["kind"], row["step"]): row for row in read_lines(path)}
    return sorted(rows.values(), key=lambda row: row["step"])


def figure(result: dict | str, metric: str) -> float | str:
    """The number at a dotted path of a result, or a str: why there is none."""
    if isinstance(result, str):
        return result
    if result["status"] == "diverged":
        return f"diverged at step {result.get('diverged_at')}"
    if result["status"] != "done":
        return str(result["status"])
    node = result
    for key in metric.split("."):
        if isinstance(node, dict) and "unavailable" in node:
            return f"unavailable: {node['unavailable']}"
        if not isinstance(node, dict) or key not in node:
            known = sorted(node) if isinstance(node, dict) else "nothing"
            raise ValueError(f"metric {metric!r}: no {key!r} there; use one of {known}")
        node = node[key]
    if isinstance(node, bool) or not isinstance(node, int | float):
        raise ValueError(f"metric {metric!r} is {type(node).__name__}; name a number")
    return float(node) if math.isfinite(node) else "not finite"


SHARES = ("accuracy", "exact")  # of what is right, 0 to 1
MORE_IS_BETTER = (*SHARES, "bleu", "rouge", "f1")


def cost(result: dict | str, metric: str) -> float | str:
    """`figure`, to be made low: of a share what it lacks of 1."""
    value = figure(result, metric)
    share = metric.rpartition(".")[2] in SHARES
    return 1 - value if share and not isinstance(value, str) else value


@dataclass(frozen=True)
class Table:
    """What claims are judged on: the results of all arms under one matching.

    Attributes:
      results: arm -> seed -> result.json as a dict, or a str: why there is none.
      yardsticks: name -> bits per byte.
      baselines: name -> figure -> value, of what does a task without a network.
      edge: arms whose best learning rate lies on the grid's edge.
    """

    results: Mapping[str, Mapping[int, dict | str]]
    yardsticks: Mapping[str, float] = field(default_factory=dict)
    edge: frozenset[str] = frozenset()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def column(self, arm: str, metric: str) -> tuple[dict[int, float], list[str]]:
        """{seed: value} of an arm, and a line for each seed that has none."""
        if arm not in self.results:
            raise ValueError(f"arm {arm!r} is unknown; use one of {list(self.results)}")
        cells = {s: figure(r, metric) for s, r in sorted(self.results[arm].items())}
        values = {s: cell for s, cell in cells.items() if not isinstance(cell, str)}
        missing = [f"{arm} seed {s}: {cells[s]}" for s in cells if s not in values]
        return values, missing if cells else [f"{arm}: no seed was run"]


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder, read whole; what is not there yet is empty.

    Attributes:
      plan: plan.json.
      tables: match -> Table of the runs that enter a verdict.
      reasons: run id -> why it has no result.
      results: run id -> result.json, of every run that left one.
      rows: run id -> rows of metrics.jsonl.
      yardsticks: yardsticks.json.
      timed: speed.json: match -> arm -> figures of the arm timed alone.
    """

    folder: Path
    plan: dict
    tables: dict[str, Table]
    reasons: dict[str, str]
    results: dict[str, dict]
    rows: dict[str, list[dict]]
    yardsticks: dict
    timed: dict

    @property
    def task(self) -> dict | None:
        """plan.json's task: kind, size, tests, chance; None for text."""
        return self.plan.get("task")

    @property
    def headline(self) -> str:
        """Path of the figure by which arms are ordered."""
        return "test.same.accuracy" if self.task else "test.window.bits_per_byte"

    @property
    def cells(self) -> dict[str, list[str]]:
        """Cell -> its arms; one cell named "" where arms are not repeated."""
        cells = {}
        for arm, facts in self.plan["arms"].items():
            cells.setdefault(facts.get("cell") or "", []).append(arm)
        return cells

    @property
    def shown(self) -> str:
        """The cell whose curves are drawn: the reference, or the last."""
        return self.plan.get("reference") or list(self.cells)[-1]

    def base(self, arm: str) -> str:
        """Name of an arm without its cell."""
        return self.plan["arms"][arm].get("base", arm)

    def runs(self, match: str, arm: str) -> list[dict]:
        """The plan's runs of an arm that enter a verdict, by seed."""
        runs = [r for r in _final(self.plan) if (r["match"], r["arm"]) == (match, arm)]
        return sorted(runs, key=lambda run: run["seed"])

    def done(self, match: str, arm: str) -> list[dict]:
        """Results of the arm's finished runs, by seed."""
        results = self.tables[match].results[arm]
        return [result for _, result in sorted(results.items()) if type(result) is dict]

    def speed(self, match: str, arm: str) -> float | None:
        """Tokens a second of an arm: timed alone, else the mean of its runs."""
        if timed := self.timed.get(match, {}).get(arm):
            return timed["tokens_per_second"]
        speeds = [r["speed"]["tokens_per_second"] for r in self.done(match, arm)]
        return sum(speeds) / len(speeds) if speeds else None

    def best(self, match: str, arm: str) -> dict:
        """{"lr", "edge"} of an arm; empty while its rate is not chosen."""
        return self.plan.get("best", {}).get(match, {}).get(arm, {})


def read_comparison(folder: Path) -> Comparison:
    """Everything below a comparison's folder; plan.json must be there.

    A ValueError where arms had unequal chances: see `_refuse_unequal`.
    """
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    _refuse_unequal(plan)
    ledger_path = folder / "ledger.jsonl"
    ledger = read_lines(ledger_path) if ledger_path.exists() else []
    attempts = {row["run"]: row for row in ledger}
    results, rows, reasons = {}, {}, {}
    for run in plan["runs"]:
        workdir, name = folder / run["workdir"], run["id"]
        if result := read_json(workdir / "result.json"):
            results[name] = result
        if (workdir / "metrics.jsonl").exists():
            rows[name] = read_rows(workdir / "metrics.jsonl")
        if reason := _reason(results.get(name), attempts.get(name)):
            reasons[name] = reason
    yardsticks = read_json(folder / "yardsticks.json") or {"bits_per_byte": {}}
    tables = {}
    for match in plan["matches"]:
        best = plan.get("best", {}).get(match["name"], {})
        cells = {arm: {} for arm in plan["arms"]}
        for run in _final(plan):
            if run["match"] != match["name"]:
                continue
            if run["seed"] in cells[run["arm"]]:
                raise ValueError(
                    f"plan.json: two runs of {run['arm']} at seed {run['seed']} "
                    f"(one is {run['id']}); mark runs that choose a rate as tuning"
                )
            cells[run["arm"]][run["seed"]] = (
                reasons.get(run["id"]) or results[run["id"]]
            )
        tables[match["name"]] = Table(
            cells,
            yardsticks["bits_per_byte"],
            frozenset(arm for arm, chosen in best.items() if chosen["edge"]),
            yardsticks.get("figures", {}),
        )
    timed = read_json(folder / "speed.json")
    return Comparison(folder, plan, tables, reasons, results, rows, yardsticks, timed)


def _final(plan: dict) -> list[dict]:
    return [run for run in plan["runs"] if not run["tuning"]]


def _refuse_unequal(plan: dict) -> None:
    """ValueError if arms under one match were tuned or run unequally often.

    Not judged before the last runs are planned: tuning may still go on.
    """
    once = plan.get("tune") == "once" and plan.get("reference")
    for match in plan["matches"]:
        seeds, grids = {}, {}
        for arm, facts in plan["arms"].items():
            place = (match["name"], arm)
            runs = [r for r in plan["runs"] if (r["match"], r["arm"]) == place]
            last = sorted({r["seed"] for r in runs if not r["tuning"]})
            seeds[arm] = "seeds " + ", ".join(map(str, last)) if last else "no seeds"
            if not once or facts.get("cell") == plan["reference"]:
                tuned = [r for r in runs if r["tuning"]]
                rates, tried = ({r[key] for r in tuned} for key in ("lr", "seed"))
                grids[arm] = f"{len(rates)} rates x {len(tried)} seeds"
                if len(tuned) != len(rates) * len(tried):
                    grids[arm] += f" in {len(tuned)} runs"
        for what, told in (("seeds", seeds), ("grid", grids)):
            if set(seeds.values()) != {"no seeds"} and len(set(told.values())) > 1:
                listed = "; ".join(f"{arm} {text}" for arm, text in told.items())
                raise ValueError(f"unequal {what}, equal {match['name']}: {listed}")


def _reason(result: dict | None, attempt: dict | None) -> str:
    """Why a run has no figure, or "" where it has."""
    if result and result["status"] == "done":
        return ""
    if result and result["status"] == "diverged":
        return f"diverged at step {result['diverged_at']}"
    if attempt and attempt["status"] != "done":
        reason = attempt.get("reason")
        return f"{attempt['status']}: {reason}" if reason else attempt["status"]
    return result["status"] if result else "not finished"
