"""What a comparison will run: arms brought to equal budgets, and what that costs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from lm import config as configs
from lm.config import ConfigError
from lm.experiment import Experiment, Ladder, Match, Runs
from lm.sweep import workers
from lm.sweep.workers import Slot, Task

SPEED_SECONDS = 2.0  # of steps of an arm: shorter samples differ by half


class Arm(NamedTuple):
    """An arm under one match: its resolved config, and how it was fitted.

    fit: {"value", "achieved", "error"} of the fitted key; empty for a width match.
    """

    config: Any
    fit: dict


Fitted = dict[str, dict[str, Arm]]  # {match: {arm: Arm}}


def to_json(config) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def fit(
    arms: dict,
    runs: Runs,
    vocab_sizes: dict,
    places: list[Slot],
    log: Path,
    known: dict | None = None,
) -> Fitted:
    """Every arm under every match, its key set so that the target is met within 1 %.

    known: {match: {arm: fit}} of a plan that has begun, so that what was measured then
    holds.
    """
    fitted = {}
    for match in runs.matches:
        if match.quantity == "seconds":
            found = (known or {}).get("seconds") or _timed(arms, match, places, log)
        else:
            found = _solved(arms, match, vocab_sizes, places, log)
        fitted[match.quantity] = {
            arm: _arm(config, match, found.get(arm)) for arm, config in arms.items()
        }
    return fitted


def _arm(config, match: Match, fit: dict | None) -> Arm:
    """The arm with its fitted key set, if there is one."""
    if fit is None:
        return Arm(config, {})
    changed = configs.override(config, {match.by: fit["value"]})
    return Arm(configs.resolve(changed), fit)


def _fit(arm: str, match: Match, value, achieved: float) -> dict:
    """ConfigError where the arm would be off the budget by more than 1 %."""
    error = achieved / match.target - 1
    if abs(error) > 0.01:
        raise ConfigError(
            f"arm {arm!r} is off budget: {match.by}={value} gives {match.quantity} "
            f"{achieved:,.6g}, {100 * error:+.1f} % of the {match.target:,} that all "
            "arms have: change the target"
        )
    return {"value": value, "achieved": achieved, "error": error}


def _solved(arms: dict, match: Match, vocab_sizes: dict, places, log: Path) -> dict:
    """{arm: fit} by the budget solver; nothing where nothing is fitted."""
    tasks = [
        Task(
            f"{match.quantity}/{arm}",
            "fit",
            (to_json(config), match.quantity, match.target, match.by, vocab_sizes[arm]),
        )
        for arm, config in arms.items()
        if match.by
    ]
    found = {}
    for outcome in workers.run(tasks, places, log):
        if outcome.status != "done":
            raise ConfigError(f"cannot match {outcome.task.id}: {outcome.reason}")
        arm = outcome.task.id.split("/", 1)[1]
        found[arm] = _fit(arm, match, *outcome.value)
    return found


def _timed(arms: dict, match: Match, places: list[Slot], log: Path) -> dict:
    """{arm: fit} of durations of so many seconds, from each arm's step timed alone."""
    plain = {"seconds": {arm: Arm(config, {}) for arm, config in arms.items()}}
    timed = time_steps(plain, alone(places), log)["seconds"]
    found = {}
    for arm, figures in timed.items():
        steps = max(round(match.target / figures["step_seconds"]), 1)
        seconds = steps * figures["step_seconds"]
        found[arm] = _fit(arm, match, f"{steps} steps", seconds)
    return found


def alone(places: list[Slot]) -> list[Slot]:
    """One slot with all CPUs: runs that share the machine say little about speed."""
    cpus = frozenset().union(*(place.cpus for place in places))
    return [places[0]._replace(cpus=cpus)]


def describe(
    experiment: Experiment, tier: str, runs: Runs, fitted: Fitted, task: dict | None
) -> dict:
    """plan.json before anything has run; see docs/architecture.md.

    task: the facts of a synthetic task; None of a text.
    """
    tuned = isinstance(runs.rate, Ladder)
    note = "one stated rate, not tuned"
    if tuned:
        note = (
            f"each arm's best of a ladder of ratio {runs.rate.ratio:g}, chosen on "
            f"validation with seeds {', '.join(map(str, runs.rate.seeds))}"
        )
        if runs.rate.by:
            note += f", by {runs.rate.by}"
        if experiment.cells and experiment.tune == "once":
            note += f", in the cell {experiment.reference} for all cells"
    arms = {}
    for arm, fit in next(iter(fitted.values())).items():
        base, cell = experiment.arms[arm]
        overrides = experiment.bases[base]
        overrides = configs.flatten(overrides) if isinstance(overrides, dict) else {}
        overrides.pop("model.pattern", None)
        place = {"base": base, "cell": cell} if cell else {}
        pattern = list(fit.config.model.pattern)
        arms[arm] = {"pattern": pattern, "overrides": overrides} | place
    return {
        "question": experiment.question,
        "paper": experiment.paper,
        "experiment": str(experiment.path),
        "experiment_hash": experiment.hash,
        "tier": tier,
        "axes": list(experiment.axes),
        "kind": experiment.kind,
        "task": task,
        "cells": {name: dict(change) for name, change in experiment.cells.items()},
        "reference": experiment.reference or None,
        "tune": experiment.tune,
        "tuned_by": tuned_by(runs.rate, task),
        "arms": arms,
        "matches": [
            {
                "name": match.quantity,
                "quantity": match.quantity,
                "target": match.target,
                "by": match.by,
                "fitted": {
                    arm: a.fit for arm, a in fitted[match.quantity].items() if a.fit
                },
            }
            for match in runs.matches
        ],
        "seeds": list(runs.seeds),
        "rates": [] if tuned else [runs.rate],
        "rate_note": note,
        "best": {match.quantity: {} for match in runs.matches},
        "runs": [],
    }


def task(rows: list[dict], fitted: Fitted, out: Path) -> Task:
    """To train these runs of plan.json as one program: of one match and arm."""
    first, made = rows[0], []
    for row in rows:
        arm = fitted[row["match"]][row["arm"]]
        changes = {"optim.lr": row["lr"], "seed": row["seed"]}
        config = configs.resolve(configs.override(arm.config, changes))
        made.append((to_json(config), str(out / row["workdir"])))
    group = f"{first['match']}/{first['arm']}"
    if len(rows) == 1:
        return Task(first["id"], "run", made[0], group)
    name = f"{first['id']} and {len(rows) - 1} more"
    return Task(name, "members", tuple(zip(*made, strict=True)), group)


def tuned_by(rate: float | Ladder, task: dict | None) -> str:
    """Dotted path of the validation figure that chooses a rate."""
    if isinstance(rate, Ladder) and rate.by:
        return rate.by
    same, window = "validation.same.nats_per_token", "validation.window.bits_per_byte"
    return same if task else window


def time_steps(fitted: Fitted, places: list[Slot], log: Path) -> dict:
    """{match: {arm: {"step_seconds", "tokens_per_second", "steps"}}}."""
    tasks = [
        Task(f"{match}/{arm}", "speed", (to_json(a.config), SPEED_SECONDS))
        for match, arms in fitted.items()
        for arm, a in arms.items()
    ]
    timed: dict = {match: {} for match in fitted}
    for outcome in workers.run(tasks, places, log):
        match, arm = outcome.task.id.split("/", 1)
        if outcome.status != "done":
            raise ConfigError(f"cannot time {outcome.task.id}: {outcome.reason}")
        timed[match][arm] = outcome.value
    return timed


def estimate(
    fitted: Fitted, runs: Runs, tuned: set[str], timed: dict, worker_count: int
) -> str:
    """The runs and their cost, as a table, from each arm's timed step.

    tuned: arms that have rates of their own, where rates are tuned.
    """
    ladder = runs.rate if isinstance(runs.rate, Ladder) else None
    tuning = ladder.rungs * len(ladder.seeds) if ladder else 0
    row = "{:12} {:20} {:>8} {:>6} {:>6} {:>8} {:>7}".format
    lines = [row("match", "arm", "fitted", "runs", "steps", "s/step", "hours")]
    total, number = 0.0, 0
    for match, arms in fitted.items():
        for arm, a in arms.items():
            t = timed[match][arm]
            count = len(runs.seeds) + (tuning if arm in tuned else 0)
            hours = count * t["steps"] * t["step_seconds"] / 3600
            total, number = total + hours, number + count
            seconds = f"{t['step_seconds']:.3f}"
            value = a.fit.get("value", "-")
            lines.append(
                row(match, arm, value, count, t["steps"], seconds, f"{hours:.2f}")
            )
    lines.append(
        f"{number} runs, {total:.2f} hours of training steps; with {worker_count} "
        f"workers about {total / worker_count:.2f} hours, evaluations apart"
    )
    if ladder:
        lines.append(
            f"a best rate at an end of the ladder adds two rungs to every arm, up to "
            f"{ladder.most}"
        )
    return "\n".join(lines)
