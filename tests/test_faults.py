"""Comparisons under faults: a killed worker, a full disk, a controller that is gone.

What happens to a process is told by FAULTS, each ACTION=PATH#N: when a PATH that ends
so is opened for writing the N-th time, or later, by a process. No test waits for it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm.results import read_lines
from tests import runs

# Python imports it at its start, in the workers too, as it is on PYTHONPATH.
SITE = """
import builtins, io, os, signal

faults = [fault.split("=") for fault in os.environ["FAULTS"].split()]
real, seen = io.open, []


def faulty(file, mode="r", *args, **kwargs):
    path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""
    seen.append(path if set("wax") & set(mode) else "")
    for action, place in faults:
        suffix, number = place.split("#")
        at = seen[-1].endswith(suffix)
        if at and sum(p.endswith(suffix) for p in seen) >= int(number):
            if action == "full":
                file = "/dev/full"  # where every write is refused for want of space
            else:
                victim = {"self": os.getpid, "parent": os.getppid}[action]()
                os.kill(victim, signal.SIGKILL)
    return real(file, mode, *args, **kwargs)


builtins.open = io.open = faulty
"""
EXPERIMENT = """
from lm.config import load
from lm.experiment import Match, Runs
from lm.stats import Claim, at_least

QUESTION = "Which is better?"
WILD = {"model.pattern": ("mingru",), "optim.weight_decay": 1e38}
ARMS = {"lstm": ("lstm",), "mingru": ("mingru",), "wild": WILD}
AXES = ("model.pattern", "optim.weight_decay", "optim.lr", "seed")
MATCH = Match("width")


def runs(tier):
    config = load("configs/base.py", {
        "data.task": {"kind": "parity", "length": 4, "held_out": 16},
        "data.context": 4, "train.batch_tokens": 16, "train.duration": "8 steps",
        "eval.every": "50%", "run.log_every": "1 steps", "eval.rows": 16,
        "run.checkpoint_every": "3 steps", "model.width": 8, "model.mlp_width": 8,
        "model.depth": 1,
    })
    return Runs(config, (0, 1), 1e-2, (MATCH,))


CLAIMS = (Claim("it learns", at_least(0.9, "test.same.accuracy", "lstm")),)
"""
# Steps are timed for 0.1 s, instead of for 2.
CODE = """
if __name__ == "__main__":
    import sys
    from lm import cli
    from lm.sweep import plan

    plan.SPEED_SECONDS = 0.1
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """compare(out, *faults) -> the exit code of a comparison, a process of its own."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "experiment.py").write_text(EXPERIMENT)
    settings = {"XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(folder)}
    settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def run(out: Path, *faults: str) -> int:
        command = [sys.executable, "-c", CODE, "compare", str(folder / "experiment.py")]
        command += [f"--out={out}", "--workers=2"]
        environment = os.environ | settings | {"FAULTS": " ".join(faults)}
        environment["PYTHONPATH"] += f":{runs.ROOT}"
        with (folder / "output").open("a") as output:
            done = subprocess.run(
                command, cwd=runs.ROOT, env=environment, stdout=output, stderr=output
            )
        return done.returncode

    return run


@pytest.fixture(scope="module")
def whole(compare, tmp_path_factory):
    """The folder of a comparison to which nothing happened."""
    out = tmp_path_factory.mktemp("whole")
    assert compare(out) == 0
    return out


def results(out: Path) -> dict[str, bytes]:
    """{run: result.json} of the runs that have ended."""
    paths = out.glob("runs/*/*/*/result.json")
    return {str(p.parent.relative_to(out / "runs")): p.read_bytes() for p in paths}


def figures(out: Path) -> dict[str, tuple]:
    """What a comparison found, timing apart."""
    found = {}
    for name, text in results(out).items():
        result = json.loads(text)
        facts = [result.get(k) for k in ("status", "step", "validation", "test")]
        found[name] = (*facts, runs.rows(out / "runs" / name))
    return found


def ledger(out: Path) -> dict[str, tuple[str, str]]:
    """{run: (status, reason)} of the last attempt."""
    rows = read_lines(out / "ledger.jsonl")
    return {row["run"]: (row["status"], row["reason"]) for row in rows}


def test_arms_that_diverge_are_a_result_and_the_others_finish(whole):
    states = ledger(whole)
    assert len(states) == 6
    for name, (status, reason) in states.items():
        wild = "/wild/" in name
        assert status == ("diverged" if wild else "done")
        assert not wild or "not finite at step" in reason
    assert "diverged at step" in (whole / "report.md").read_text()


def test_runs_that_are_lost_cost_themselves_alone_and_are_made_up_for(
    compare, whole, tmp_path
):
    lost = {
        "width/lstm/lr0.01-seed1": ("self", "killed by SIGKILL"),
        "width/mingru/lr0.01-seed0": ("full", "No space left on device"),
    }
    faults = [f"{what}={run}/metrics.jsonl#5" for run, (what, _) in lost.items()]
    assert compare(tmp_path, *faults) == 4
    first = results(tmp_path)
    assert first.keys() == results(whole).keys() - lost.keys()
    report = (tmp_path / "report.md").read_text()
    assert "lstm seed 1" in report  # the claim lacks it
    for run, (_, reason) in lost.items():
        status, told = ledger(tmp_path)[run]
        assert status == "failed" and reason in told
        assert reason in report
    assert compare(tmp_path) == 0
    assert figures(tmp_path) == figures(whole)
    assert first.items() <= results(tmp_path).items()
    report = (tmp_path / "report.md").read_text()
    for run, (_, reason) in lost.items():
        assert ledger(tmp_path)[run] == ("done", "")
        assert reason not in report


def test_a_controller_killed_at_any_moment_loses_no_finished_run(
    compare, whole, tmp_path
):
    moments = (
        "parent=metrics.jsonl#5",  # in the midst of the first runs
        "parent=result.draft#2",  # where a run ends that is not its worker's first
        "self=report.md#1",  # all have ended
    )
    known: dict[str, bytes] = {}
    counts = []
    for moment in moments:
        assert compare(tmp_path, moment) == -9
        found = results(tmp_path)
        assert known.items() <= found.items()
        known = found
        counts.append(len(found))
        assert not (tmp_path / "report.html").exists()
    assert 0 < counts[1] < 6 and counts == [0, counts[1], 6]
    assert compare(tmp_path) == 0
    assert results(tmp_path) == known
    assert figures(tmp_path) == figures(whole)
    assert (tmp_path / "report.html").exists()
