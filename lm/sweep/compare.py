"""A comparison: plan, fit, tune, run, time, report. The parent imports no jax."""

import json
import math
import time
from pathlib import Path
from typing import Any

from lm import config as configs
from lm import experiment as experiments
from lm import report as reports
from lm.config import ConfigError
from lm.data import prepare, yardsticks
from lm.experiment import Experiment, Ladder, Runs
from lm.signals import Interrupts
from lm.sweep import workers
from lm.sweep.workers import Task
from lm.workdir import append_row, workdir_lock, write_json

SPEED_STEPS = 11  # timed after two that warm up


def compare(
    path: Path, tier: str, out: Path, dry: bool, worker_count: int | None
) -> int:
    """Runs a tier of an experiment file in `out`, or goes on with it; an exit code.

    Args:
      dry: print the plan and what it would cost, from a few timed steps an arm.
      worker_count: by default one a device, or one a core.
    """
    experiment = experiments.load(path)
    runs = experiments.tier_runs(experiment, tier)
    arms = experiments.arm_configs(experiment, runs)
    corpus = prepare(runs.config.data)
    places = workers.slots(worker_count)
    if dry:
        folder = out / "dry"
        _estimate(_fitted(arms, runs, corpus, places, folder), runs, places, folder)
        return 0
    with Interrupts(), workdir_lock(out):
        _same_experiment(experiment, tier, out)
        sweep = Sweep(experiment, tier, runs, arms, out, corpus, places)
        return sweep.run()


def report(out: Path) -> Path:
    """Writes the report of a comparison's folder again, from its files alone."""
    plan_path = out / "plan.json"
    if not plan_path.exists():
        raise ConfigError(f"{out} holds no comparison: it has no plan.json")
    plan = json.loads(plan_path.read_text())
    experiment = experiments.load(Path(plan["experiment"]))
    if experiment.hash != plan["experiment_hash"]:
        raise ConfigError(
            f"{plan['experiment']} has changed since {out} was run (its hash is "
            f"{experiment.hash}, then {plan['experiment_hash']}): restore the file"
        )
    return reports.write(out, experiment.claims)


def _same_experiment(experiment: Experiment, tier: str, out: Path) -> None:
    plan_path = out / "plan.json"
    if not plan_path.exists():
        return
    plan = json.loads(plan_path.read_text())
    was = (plan["experiment_hash"], plan["tier"])
    if was != (experiment.hash, tier):
        raise ConfigError(
            f"{out} holds another comparison (hash {was[0]}, tier {was[1]}; now "
            f"{experiment.hash}, {tier}): take another --out"
        )


def _json(config) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def _fitted(arms, runs: Runs, corpus, places, folder: Path) -> dict:
    """{match: {arm: (config, fit)}}: every arm brought to every match's target.

    fit: {"value", "achieved", "error"} of the fitted key; empty for a width match.
    """
    fitted = {
        match.quantity: {arm: (c, {}) for arm, c in arms.items()}
        for match in runs.matches
    }
    by_quantity = {match.quantity: match for match in runs.matches}
    tasks = [
        Task(
            f"{match.quantity}/{arm}",
            "fit",
            (_json(c), match.quantity, match.target, match.by, corpus.vocab_size),
        )
        for match in runs.matches
        if match.by
        for arm, c in arms.items()
    ]
    for outcome in workers.run(tasks, places, folder / "logs"):
        if outcome.status != "done":
            raise ConfigError(f"cannot match {outcome.task.id}: {outcome.reason}")
        quantity, arm = outcome.task.id.split("/", 1)
        match, (value, achieved) = by_quantity[quantity], outcome.value
        config = configs.resolve(configs.override(arms[arm], {match.by: value}))
        error = achieved / match.target - 1
        fitted[quantity][arm] = (
            config,
            {"value": value, "achieved": achieved, "error": error},
        )
    return fitted


class Sweep:
    """One comparison's folder at work."""

    def __init__(
        self, experiment: Experiment, tier, runs: Runs, arms, out, corpus, places
    ):
        self.experiment, self.runs, self.out = experiment, runs, out
        self.corpus, self.places = corpus, places
        self.fitted = _fitted(arms, runs, corpus, places, out)
        ladder = isinstance(runs.rate, Ladder)
        note = (
            "one stated rate, not tuned"
            if not ladder
            else (
                f"each arm's best of a ladder of ratio {runs.rate.ratio:g}, chosen on "
                f"validation with seeds {', '.join(map(str, runs.rate.seeds))}"
            )
        )
        self.plan = {
            "question": experiment.question,
            "paper": experiment.paper,
            "experiment": str(experiment.path),
            "experiment_hash": experiment.hash,
            "tier": tier,
            "axes": list(experiment.axes),
            "kind": experiment.kind,
            "arms": {
                arm: {
                    "pattern": list(config.model.pattern),
                    "overrides": _overrides(experiment.arms[arm]),
                }
                for arm, config in arms.items()
            },
            "matches": [
                {
                    "name": match.quantity,
                    "quantity": match.quantity,
                    "target": match.target,
                    "by": match.by,
                    "fitted": {
                        arm: fit
                        for arm, (_, fit) in self.fitted[match.quantity].items()
                        if fit
                    },
                }
                for match in runs.matches
            ],
            "seeds": list(runs.seeds),
            "rates": [] if ladder else [runs.rate],
            "rate_note": note,
            "best": {match.quantity: {} for match in runs.matches},
            "runs": [],
        }

    def run(self) -> int:
        """All phases; 0, or 4 if some runs failed."""
        began = time.perf_counter()
        self._write_yardsticks()
        if isinstance(self.runs.rate, Ladder):
            self._tune(self.runs.rate)
        else:
            for match, arms in self.fitted.items():
                choice = {"lr": self.runs.rate, "edge": False}
                self.plan["best"][match] = {arm: choice for arm in arms}
        final = [
            self._row(match, arm, self.plan["best"][match][arm]["lr"], seed, False)
            for match, arms in self.fitted.items()
            for arm in arms
            if arm in self.plan["best"][match]
            for seed in self.runs.seeds
        ]
        failed = self._train(final)
        self._time_steps()
        path = reports.write(self.out, self.experiment.claims)
        minutes = (time.perf_counter() - began) / 60
        print(f"report: {path}  ({minutes:.1f} minutes)")
        if failed:
            print(f"{failed} runs failed: their reasons are in the report and ledger")
        return 4 if failed else 0

    def _write_yardsticks(self) -> None:
        path = self.out / "yardsticks.json"
        if path.exists():
            return
        train, test = (
            self.corpus.decode(self.corpus.tokens(split)) for split in ("train", "test")
        )
        figures = yardsticks(train, test)
        write_json(
            path,
            {
                "train_bytes": len(train),
                "heldout_bytes": len(test),
                "bits_per_byte": figures,
            },
        )

    def _row(self, match: str, arm: str, lr: float, seed: int, tuning: bool) -> dict:
        name = f"{match}/{arm}/lr{lr:g}-seed{seed}"
        return {
            "id": name,
            "match": match,
            "arm": arm,
            "lr": lr,
            "seed": seed,
            "tuning": tuning,
            "workdir": f"runs/{name}",
        }

    def _train(self, rows: list[dict]) -> int:
        """Trains what is not trained yet; the number of rows that failed."""
        self.plan["runs"] += [row for row in rows if row not in self.plan["runs"]]
        write_json(self.out / "plan.json", self.plan)
        by_id = {row["id"]: row for row in rows}
        tasks = []
        for row in rows:
            config = self.fitted[row["match"]][row["arm"]][0]
            changes = {"optim.lr": row["lr"], "seed": row["seed"]}
            config = configs.resolve(configs.override(config, changes))
            if not _finished(self.out / row["workdir"]):
                workdir = str(self.out / row["workdir"])
                group = f"{row['match']}/{row['arm']}"
                tasks.append(Task(row["id"], "run", (_json(config), workdir), group))
        if len(tasks) < len(rows):
            print(f"{len(rows) - len(tasks)} of {len(rows)} runs are done already")
        began, failed = time.perf_counter(), 0
        outcomes = workers.run(tasks, self.places, self.out / "logs")
        for n, outcome in enumerate(outcomes, 1):
            row, value = by_id[outcome.task.id], outcome.value or {}
            status = value.get("status", outcome.status)
            seconds = time.perf_counter() - began
            reason = outcome.reason
            if status == "diverged":
                reason = f"loss not finite at step {value['diverged_at']}"
            kept = ("id", "arm", "match", "lr", "seed", "tuning", "workdir")
            entry = {("run" if key == "id" else key): row[key] for key in kept}
            append_row(
                self.out / "ledger.jsonl",
                entry | {"status": status, "reason": reason, "seconds": seconds},
            )
            failed += outcome.status != "done"
            figure = value.get("bits_per_byte")
            told = f"test {figure:.3f} bits/byte" if figure else reason
            left = seconds / n * (len(tasks) - n)
            print(
                f"{n}/{len(tasks)}  {row['id']}  {status}  {told}  "
                f"{int(left) // 60}:{int(left) % 60:02d} left",
                flush=True,
            )
        return failed

    def _tune(self, ladder: Ladder) -> None:
        """Chooses each arm's rate on validation, extending the ladder at its ends."""
        rungs = {
            (match, arm): list(range(ladder.rungs))
            for match, arms in self.fitted.items()
            for arm in arms
        }
        while True:
            rows = [
                self._row(match, arm, ladder.rate(rung), seed, True)
                for (match, arm), held in rungs.items()
                for rung in held
                for seed in ladder.seeds
            ]
            self._train(rows)
            best = {
                place: self._best(place, held, ladder) for place, held in rungs.items()
            }
            for (match, arm), rung in best.items():
                held = rungs[match, arm]
                edge = rung in (min(held), max(held))
                choice = {"lr": ladder.rate(rung), "edge": edge}
                self.plan["best"][match][arm] = choice
            at_edge = any(
                c["edge"] for arms in self.plan["best"].values() for c in arms.values()
            )
            full = all(len(held) >= ladder.most for held in rungs.values())
            self.plan["rates"] = sorted({row["lr"] for row in rows})
            if not at_edge or full:
                return
            rungs = {p: ladder.extended(held, best[p]) for p, held in rungs.items()}

    def _best(self, place: tuple[str, str], held: list[int], ladder: Ladder) -> int:
        """The rung with the lowest mean validation figure; a lost run is the worst."""

        def figure(rung: int) -> float:
            total = 0.0
            for seed in ladder.seeds:
                row = self._row(*place, ladder.rate(rung), seed, True)
                path = self.out / row["workdir"] / "result.json"
                result = json.loads(path.read_text()) if path.exists() else {}
                window = result.get("validation", {}).get("window", {})
                total += window.get("bits_per_byte", math.inf)
            return total / len(ladder.seeds)

        return min(held, key=figure)

    def _time_steps(self) -> None:
        """Speed of each arm, one at a time on the whole machine, into speed.json."""
        path = self.out / "speed.json"
        if path.exists():
            return
        cpus = frozenset().union(*(place.cpus for place in self.places))
        alone = [self.places[0]._replace(cpus=cpus)]
        timed = _timed(self.fitted, alone, self.out)
        write_json(path, timed)


def _overrides(arm: Any) -> dict:
    changes = configs.flatten(arm) if isinstance(arm, dict) else {}
    return {key: value for key, value in changes.items() if key != "model.pattern"}


def _finished(workdir: Path) -> bool:
    path = workdir / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] in (
        "done",
        "diverged",
    )


def _timed(fitted: dict, places, folder: Path) -> dict:
    """{match: {arm: {"step_seconds", "tokens_per_second", "steps"}}}."""
    tasks = [
        Task(f"{match}/{arm}", "speed", (_json(config), SPEED_STEPS))
        for match, arms in fitted.items()
        for arm, (config, _) in arms.items()
    ]
    timed: dict = {match: {} for match in fitted}
    for outcome in workers.run(tasks, places, folder / "logs"):
        match, arm = outcome.task.id.split("/", 1)
        if outcome.status != "done":
            raise ConfigError(f"cannot time {outcome.task.id}: {outcome.reason}")
        timed[match][arm] = outcome.value
    return timed


def _estimate(fitted: dict, runs: Runs, places, folder: Path) -> None:
    """Prints the runs of a plan and their cost, every arm's step timed."""
    timed = _timed(fitted, places, folder)
    ladder = isinstance(runs.rate, Ladder)
    rates = runs.rate.rungs * len(runs.rate.seeds) if ladder else 0
    count = len(runs.seeds) + rates
    total, number = 0.0, 0
    print(
        f"{'match':12} {'arm':20} {'fitted':>10} {'runs':>5} {'s/step':>8} {'hours':>7}"
    )
    for match, arms in fitted.items():
        for arm, (_, fit) in arms.items():
            t = timed[match][arm]
            hours = count * t["steps"] * t["step_seconds"] / 3600
            total, number = total + hours, number + count
            value = fit.get("value", "-")
            print(
                f"{match:12} {arm:20} {value:>10} {count:>5} "
                f"{t['step_seconds']:8.3f} {hours:7.2f}"
            )
    print(
        f"{number} runs, {total:.2f} hours of training by {len(places)} workers: about "
        f"{total / len(places):.2f} hours, evaluation apart"
    )
    if ladder:
        print("a best rate at the ladder's end adds two rungs to every arm, up to 10")
