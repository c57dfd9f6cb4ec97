"""What a comparison will run: arms brought to equal budgets, and what that costs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from lm import config as configs
from lm.config import ConfigError
from lm.experiment import Experiment, Ladder, Runs
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
    arms: dict, runs: Runs, vocab_sizes: dict, places: list[Slot], log: Path
) -> Fitted:
    """Every arm under every match, its key set so that the target is met within 1 %."""
    matches = {match.quantity: match for match in runs.matches}
    fitted = {name: {arm: Arm(c, {}) for arm, c in arms.items()} for name in matches}
    tasks = [
        Task(
            f"{name}/{arm}",
            "fit",
            (to_json(config), name, match.target, match.by, vocab_sizes[arm]),
        )
        for name, match in matches.items()
        if match.by
        for arm, config in arms.items()
    ]
    for outcome in workers.run(tasks, places, log):
        if outcome.status != "done":
            raise ConfigError(f"cannot match {outcome.task.id}: {outcome.reason}")
        name, arm = outcome.task.id.split("/", 1)
        match, (value, achieved) = matches[name], outcome.value
        config = configs.resolve(configs.override(arms[arm], {match.by: value}))
        error = achieved / match.target - 1
        facts = {"value": value, "achieved": achieved, "error": error}
        fitted[name][arm] = Arm(config, facts)
    return fitted


def describe(experiment: Experiment, tier: str, runs: Runs, fitted: Fitted) -> dict:
    """plan.json before anything has run; see docs/architecture.md."""
    tuned = isinstance(runs.rate, Ladder)
    note = "one stated rate, not tuned"
    if tuned:
        note = (
            f"each arm's best of a ladder of ratio {runs.rate.ratio:g}, chosen on "
            f"validation with seeds {', '.join(map(str, runs.rate.seeds))}"
        )
    arms = {}
    for arm in runs.arms or experiment.arms:
        overrides = experiment.arms[arm]
        overrides = configs.flatten(overrides) if isinstance(overrides, dict) else {}
        pattern = next(iter(fitted.values()))[arm].config.model.pattern
        overrides.pop("model.pattern", None)
        arms[arm] = {"pattern": list(pattern), "overrides": overrides}
    return {
        "question": experiment.question,
        "paper": experiment.paper,
        "experiment": str(experiment.path),
        "experiment_hash": experiment.hash,
        "tier": tier,
        "axes": list(experiment.axes),
        "kind": experiment.kind,
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


def estimate(fitted: Fitted, runs: Runs, timed: dict, worker_count: int) -> str:
    """The runs and their cost, as a table, from each arm's timed step."""
    tuned = isinstance(runs.rate, Ladder)
    count = len(runs.seeds)
    count += runs.rate.rungs * len(runs.rate.seeds) if tuned else 0
    row = "{:12} {:20} {:>8} {:>6} {:>6} {:>8} {:>7}".format
    lines = [row("match", "arm", "fitted", "runs", "steps", "s/step", "hours")]
    total, number = 0.0, 0
    for match, arms in fitted.items():
        for arm, a in arms.items():
            t = timed[match][arm]
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
    if tuned:
        lines.append(
            f"a best rate at an end of the ladder adds two rungs to every arm, up to "
            f"{runs.rate.most}"
        )
    return "\n".join(lines)
