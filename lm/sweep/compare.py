"""A comparison: fit, tune, run, time, report. Its process imports no jax."""

import json
import math
import time
from itertools import zip_longest
from pathlib import Path

from lm import experiment as experiments
from lm import report as reports
from lm.data import Synthetic, as_bytes, baselines, prepare, yardsticks
from lm.errors import ConfigError, choose
from lm.experiment import Experiment, Ladder, Runs
from lm.results import cost, read_json
from lm.signals import interrupts
from lm.sweep import plan as plans
from lm.sweep import workers
from lm.sweep.plan import Fitted
from lm.sweep.workers import Slot
from lm.workdir import append_row, workdir_lock, write_json


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
    # One after another: workers find the token files made.
    data = {arm: prepare(config.data) for arm, config in arms.items()}
    sizes = {arm: corpus.vocab_size for arm, corpus in data.items()}
    task = _task(data, runs)
    mesh = runs.config.mesh
    places = workers.slots(worker_count, max(mesh.data, 1) * max(mesh.fsdp, 1))
    log = out / "logs"
    with interrupts(), workdir_lock(out):
        _same_experiment(experiment, tier, out)
        begun = read_json(out / "plan.json").get("matches", [])
        known = {match["name"]: match["fitted"] for match in begun}
        fitted = plans.fit(arms, runs, sizes, places, log, known)
        if dry:
            timed = plans.time_steps(fitted, places, log)
            tuned = set(experiment.tuned.values())
            print(plans.estimate(fitted, runs, tuned, timed, len(places)))
            return 0
        plan = plans.describe(experiment, tier, runs, fitted, task)
        if task is None:
            _write_yardsticks(runs.config.data, out)
        else:
            _write_baselines(next(iter(data.values())), out)
        return Sweep(experiment, runs, fitted, plan, out, places).run()


def report(out: Path) -> Path:
    """Writes the report of a comparison's folder again, from its files alone."""
    plan_path = out / "plan.json"
    if not plan_path.exists():
        raise ConfigError(f"{out} holds no comparison: it has no plan.json")
    plan = json.loads(plan_path.read_text())
    if (out / "report.md").exists() and not (out / "runs").is_dir():
        raise ConfigError(
            f"{out} holds a report without its runs, which it would be made again "
            "from: make it where they are"
        )
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


def _task(data: dict, runs: Runs) -> dict | None:
    """The facts of the task that all arms have; None of a text.

    ConfigError where arms have several, or rates are chosen by a test it lacks.
    """
    facts = [d.facts() if isinstance(d, Synthetic) else None for d in data.values()]
    for arm, found in zip(data, facts, strict=True):
        if found != facts[0]:
            raise ConfigError(
                f"the data of arm {arm!r} is another task than that of "
                f"{next(iter(data))!r}: arms and cells of a comparison have one"
            )
    names = facts[0]["tests"] if facts[0] else ("window",)
    by = plans.tuned_by(runs.rate, facts[0])
    choose("Ladder by", by.split(".")[1], names)
    return facts[0]


def _write_yardsticks(data, out: Path) -> None:
    path = out / "yardsticks.json"
    if path.exists():
        return
    corpus = prepare(as_bytes(data))
    train, test = (corpus.decode(corpus.tokens(split)) for split in ("train", "test"))
    sizes = {"train_bytes": len(train), "heldout_bytes": len(test)}
    write_json(path, sizes | {"bits_per_byte": yardsticks(train, test)})


def _write_baselines(data: Synthetic, out: Path) -> None:
    path = out / "yardsticks.json"
    if not path.exists():
        figures = baselines(data) if data.task.reads_pairs else {}
        write_json(path, {"bits_per_byte": {}, "figures": figures})


class Sweep:
    """One comparison's folder at work; everything it knows is in `plan`."""

    def __init__(
        self,
        experiment: Experiment,
        runs: Runs,
        fitted: Fitted,
        plan: dict,
        out: Path,
        places: list[Slot],
    ):
        self.experiment, self.runs, self.fitted = experiment, runs, fitted
        self.plan, self.out, self.places = plan, out, places

    def run(self) -> int:
        """All phases; 0, or 4 if some runs failed."""
        began = time.perf_counter()
        if isinstance(self.runs.rate, Ladder):
            failed = self._tune(self.runs.rate)
        else:
            failed = 0
            for match, arms in self.fitted.items():
                choice = {"lr": self.runs.rate, "edge": False}
                self.plan["best"][match] = {arm: choice for arm in arms}
        final = [
            self._row(match, arm, self.plan["best"][match][arm]["lr"], seed, False)
            for match, arms in self.fitted.items()
            for arm in arms
            for seed in self.runs.seeds
        ]
        failed += self._train(final)
        if not (self.out / "speed.json").exists():
            alone = plans.alone(self.places)
            timed = plans.time_steps(self.fitted, alone, self.out / "logs")
            write_json(self.out / "speed.json", timed)
        path = reports.write(self.out, self.experiment.claims)
        minutes = (time.perf_counter() - began) / 60
        print(f"report: {path}  ({minutes:.1f} minutes)")
        if failed:
            print(f"{failed} runs failed: their reasons are in the report and ledger")
        return 4 if failed else 0

    def _row(self, match: str, arm: str, lr: float, seed: int, tuning: bool) -> dict:
        """A row of plan.json's runs."""
        name = f"{match}/{arm}/lr{lr:g}-seed{seed}"
        place = {"match": match, "arm": arm, "lr": lr, "seed": seed, "tuning": tuning}
        return {"id": name, "workdir": f"runs/{name}"} | place

    def _train(self, rows: list[dict]) -> int:
        """Trains what is not trained yet; the number of rows that failed."""
        self.plan["runs"] += [row for row in rows if row not in self.plan["runs"]]
        write_json(self.out / "plan.json", self.plan)
        waiting = [row for row in rows if self._result(row) is None]
        if len(waiting) < len(rows):
            print(f"{len(rows) - len(waiting)} of {len(rows)} runs are done already")
        parts = workers.together(waiting, workers.members(), len(self.places))
        tasks = {plans.task(part, self.fitted, self.out): part for part in parts}
        began, failed = time.perf_counter(), 0
        ended = (
            (outcome, row, value or {})
            for outcome in workers.run(list(tasks), self.places, self.out / "logs")
            for row, value in zip_longest(tasks[outcome.task], outcome.each)
        )
        for number, (outcome, row, value) in enumerate(ended, 1):
            status = value.get("status", outcome.status)
            reason = outcome.reason
            if status == "diverged":
                reason = f"loss not finite at step {value['diverged_at']}"
            entry = {"run": row["id"], "status": status, "reason": reason}
            seconds = time.perf_counter() - began
            facts = {key: row[key] for key in row if key != "id"}
            append_row(self.out / "ledger.jsonl", entry | facts | {"seconds": seconds})
            failed += outcome.status != "done"
            told = reason or value.get("told", "")
            left = int(seconds / number * (len(waiting) - number))
            print(
                f"{number}/{len(waiting)}  {row['id']}  {status}  {told}  "
                f"{left // 60}:{left % 60:02d} left",
                flush=True,
            )
        return failed

    def _result(self, row: dict) -> dict | None:
        """result.json of a run that has ended."""
        path = self.out / row["workdir"] / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _tune(self, ladder: Ladder) -> int:
        """Chooses each arm's rate on validation, extending the ladder at its ends."""
        tuned = self.experiment.tuned
        rungs = {
            (match, arm): list(range(ladder.rungs))
            for match, arms in self.fitted.items()
            for arm in arms
            if tuned[arm] == arm
        }
        failed = 0
        while True:
            rows = [
                self._row(*place, ladder.rate(rung), seed, True)
                for place, held in rungs.items()
                for rung in held
                for seed in ladder.seeds
            ]
            failed += self._train(rows)
            best = {place: self._best(place, rungs[place], ladder) for place in rungs}
            edges = set()
            for (match, arm), rung in best.items():
                held = rungs[match, arm]
                edge = rung in (min(held), max(held))
                edges.add(edge)
                choice = {"lr": ladder.rate(rung), "edge": edge}
                for other in self.fitted[match]:
                    if tuned[other] == arm:
                        self.plan["best"][match][other] = choice
            self.plan["rates"] = sorted({row["lr"] for row in rows})
            if edges == {False} or len(held) >= ladder.most:
                return failed
            rungs = {p: ladder.extended(held, best[p]) for p, held in rungs.items()}

    def _best(self, place: tuple[str, str], held: list[int], ladder: Ladder) -> int:
        """The rung of the lowest mean validation figure; a lost run is the worst."""

        def mean(rung: int) -> float:
            total = 0.0
            for seed in ladder.seeds:
                result = self._result(self._row(*place, ladder.rate(rung), seed, True))
                value = cost(result or "not finished", self.plan["tuned_by"])
                total += math.inf if isinstance(value, str) else value
            return total / len(ladder.seeds)

        return ladder.best({rung: mean(rung) for rung in held})
