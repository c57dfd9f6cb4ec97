"""Comparisons: phases with stand-in workers, and real ones under signals."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lm
from lm import config as configs
from lm.config import ConfigError
from lm.experiment import Ladder
from lm.results import read_lines
from lm.sweep import compare, workers
from lm.sweep.workers import Outcome, Slot, Task

ROOT = Path(lm.__file__).parent.parent
TEXT = """
from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, lower

QUESTION = "Which is better?"
ARMS = {{"attention": ("attention",), "lstm": ("lstm",)}}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = {match}
{lines}


def runs(tier):
    config = load("configs/base.py", {{
        "model.width": 32, "data.train_bytes": 20_000, "data.eval_bytes": 2_000,
        "data.context": 32, "eval.stream_chunk": 16, "train.batch_tokens": 256,
        "train.duration": "{steps} steps", "run.sample_tokens": 8,
    }})
    return Runs(config, {seeds}, {rate}, (MATCH,))


CLAIMS = (Claim("one is better", lower("lstm{cell}", "attention{cell}")),)
"""
MATCH = 'Match("params", 40_000, by="model.mlp_width")'
LADDER = "Ladder(start=5e-4, ratio=2)"


def write(
    folder, seeds=(0, 1), rate="1e-2", steps=20, match=MATCH, lines="", cell=""
) -> Path:
    path = folder / "experiment.py"
    found = dict(seeds=seeds, rate=rate, steps=steps, match=match, lines=lines)
    path.write_text(TEXT.format(**found, cell=cell))
    return path


@pytest.fixture
def stand_ins(monkeypatch):
    """Workers that train nothing: a run's figure is `figure(arm, lr, seed)`.

    other: the same, of nats_per_token. seconds: of a step, by arm. share: of the target
    that a fit achieves.
    """
    monkeypatch.chdir(ROOT)
    trained = []

    def use(figure, other=lambda *_: 0.0, seconds=lambda arm: 1.0, share=1.0):
        def run(tasks, places, log):
            for task in tasks:
                if task.function == "fit":
                    achieved = share * task.arguments[2]
                    yield Outcome(task, "done", (100, achieved), "")
                elif task.function == "speed":
                    value = {"step_seconds": seconds(task.id.split("/")[1])}
                    value |= {"tokens_per_second": 9.0, "steps": 2}
                    yield Outcome(task, "done", value, "")
                else:
                    config = json.loads(task.arguments[0])
                    workdir = Path(task.arguments[1])
                    arm = workdir.parent.name
                    place = (arm, config["optim"]["lr"], config["seed"])
                    window = {"bits_per_byte": figure(*place)}
                    window["nats_per_token"] = other(*place)
                    workdir.mkdir(parents=True)
                    done = {"status": "done", "diverged_at": None}
                    steps = {"duration": config["train"]["duration"]}
                    text = done | steps | {"validation": {"window": window}}
                    (workdir / "result.json").write_text(json.dumps(text))
                    trained.append(place)
                    yield Outcome(task, "done", done, "")

        monkeypatch.setattr(workers, "run", run)
        monkeypatch.setattr(compare.reports, "write", lambda out, claims: out)
        return trained

    return use


def plan_of(out: Path) -> dict:
    return json.loads((out / "plan.json").read_text())


def bowl(best: dict):
    return lambda arm, lr, seed: abs(math.log(lr / best[arm]))


def test_the_ladder_gives_every_arm_the_same_rates_and_finds_the_best(
    stand_ins, tmp_path
):
    trained = stand_ins(bowl({"attention": 2e-3, "lstm": 4e-3}))
    path = write(tmp_path, rate="Ladder(start=5e-4, ratio=2)")
    assert compare.compare(path, "tiny", tmp_path / "out", False, 1) == 0
    plan = plan_of(tmp_path / "out")
    assert plan["best"]["params"] == {
        "attention": {"lr": 2e-3, "edge": False},
        "lstm": {"lr": 4e-3, "edge": False},
    }
    tuned = [t for t in trained if t[2] >= 1000]
    rates = {a: {lr for arm, lr, _ in tuned if arm == a} for a in ("attention", "lstm")}
    assert rates["attention"] == rates["lstm"] and len(rates["lstm"]) == 6
    final = [(a, lr, s) for a, lr, s in trained if s < 1000]
    assert sorted(final) == [
        ("attention", 2e-3, 0),
        ("attention", 2e-3, 1),
        ("lstm", 4e-3, 0),
        ("lstm", 4e-3, 1),
    ]
    kept = [row for row in plan["runs"] if not row["tuning"]]
    assert {row["seed"] for row in kept} == {0, 1}


def test_a_best_rate_at_an_end_adds_two_rungs_to_every_arm(stand_ins, tmp_path):
    trained = stand_ins(bowl({"attention": 2e-3, "lstm": 3.2e-2}))
    path = write(tmp_path, rate="Ladder(start=5e-4, ratio=2)")
    compare.compare(path, "tiny", tmp_path / "out", False, 1)
    plan = plan_of(tmp_path / "out")
    assert plan["best"]["params"]["lstm"] == {"lr": 3.2e-2, "edge": False}
    tuned = [t for t in trained if t[2] >= 1000]
    counts = {a: sum(arm == a for arm, *_ in tuned) for a in ("attention", "lstm")}
    assert counts == {"attention": 8, "lstm": 8}
    assert min(lr for arm, lr, _ in tuned if arm == "attention") == 1.25e-4


def test_after_ten_rungs_the_edge_is_flagged(stand_ins, tmp_path):
    trained = stand_ins(bowl({"attention": 2e-3, "lstm": 1e3}))
    path = write(tmp_path, rate="Ladder(start=5e-4, ratio=2)")
    compare.compare(path, "tiny", tmp_path / "out", False, 1)
    best = plan_of(tmp_path / "out")["best"]["params"]
    assert best["lstm"]["edge"] and not best["attention"]["edge"]
    tuned = [t for t in trained if t[2] >= 1000]
    assert len(tuned) == 2 * 10


CELLS = 'CELLS = {"d16": {"model.width": 16}, "d32": {"model.width": 32}}'
BEST = {
    "attention@d16": 1e-3,
    "attention@d32": 2e-3,
    "lstm@d16": 8e-3,
    "lstm@d32": 4e-3,
}


@pytest.mark.parametrize("reference", [None, "d16"])
def test_tuning_once_gives_every_cell_the_rates_of_the_reference(
    reference, stand_ins, tmp_path
):
    trained = stand_ins(bowl(BEST))
    lines = f'{CELLS}\nREFERENCE = "{reference}"' if reference else CELLS
    path = write(tmp_path, rate=LADDER, lines=lines, cell="@d16")
    assert compare.compare(path, "tiny", tmp_path / "out", False, 1) == 0
    cell = reference or "d32"  # the last
    tuned = [(arm, lr) for arm, lr, seed in trained if seed >= 1000]
    assert {arm for arm, _ in tuned} == {f"attention@{cell}", f"lstm@{cell}"}
    assert len(tuned) == 2 * 6
    rates = {arm: BEST[f"{arm.split('@')[0]}@{cell}"] for arm in BEST}
    plan = plan_of(tmp_path / "out")
    assert plan["best"]["params"] == {
        arm: {"lr": rate, "edge": False} for arm, rate in rates.items()
    }
    final = sorted((arm, lr, seed) for arm, lr, seed in trained if seed < 1000)
    assert final == sorted((a, lr, s) for a, lr in rates.items() for s in (0, 1))
    assert f"in the cell {cell} for all cells" in plan["rate_note"]


def test_tuning_per_cell_gives_every_arm_of_every_cell_its_own_rate(
    stand_ins, tmp_path
):
    trained = stand_ins(bowl(BEST))
    lines = f'{CELLS}\nTUNE = "per cell"'
    path = write(tmp_path, rate=LADDER, lines=lines, cell="@d16")
    assert compare.compare(path, "tiny", tmp_path / "out", False, 1) == 0
    assert sum(seed >= 1000 for *_, seed in trained) == 4 * 6
    best = plan_of(tmp_path / "out")["best"]["params"]
    assert {arm: chosen["lr"] for arm, chosen in best.items()} == BEST


def test_a_ladder_chooses_by_the_figure_that_it_names(stand_ins, tmp_path):
    bits, nats = ({"attention": a, "lstm": b} for a, b in ((2e-3, 4e-3), (8e-3, 1e-3)))
    by = {None: ("bits_per_byte", bits), "nats_per_token": ("nats_per_token", nats)}
    for given, (name, best) in by.items():
        folder = tmp_path / name
        folder.mkdir()
        stand_ins(bowl(bits), bowl(nats))
        rate = LADDER.replace(")", f', by="validation.window.{given}")')
        path = write(folder, rate=rate if given else LADDER)
        compare.compare(path, "tiny", folder / "out", False, 1)
        plan = plan_of(folder / "out")
        found = {arm: c["lr"] for arm, c in plan["best"]["params"].items()}
        assert found == best
        assert plan["tuned_by"] == f"validation.window.{name}"


SECONDS = 'Match("seconds", 60, by="train.duration")'


def test_durations_of_so_many_seconds_are_those_of_the_first_timing(
    stand_ins, tmp_path
):
    def durations():
        paths = out.glob("runs/*/*/*/result.json")
        found = [(p.parent.parent.name, json.loads(p.read_text())) for p in paths]
        return sorted((arm, result["duration"]) for arm, result in found)

    out = tmp_path / "out"
    level = bowl({"attention": 1e-2, "lstm": 1e-2})
    trained = stand_ins(level, seconds={"attention": 0.5, "lstm": 0.21}.get)
    path = write(tmp_path, match=SECONDS)
    compare.compare(path, "tiny", out, False, 1)
    steps = [("attention", "120 steps")] * 2 + [("lstm", "286 steps")] * 2
    assert durations() == steps and len(trained) == 4
    (match,) = plan_of(out)["matches"]
    assert match["fitted"]["lstm"]["achieved"] == pytest.approx(286 * 0.21)

    lost = next(out.glob("runs/*/lstm/*/result.json"))
    lost.unlink()
    lost.parent.rmdir()
    again = stand_ins(level, seconds=lambda arm: 1.0)
    compare.compare(path, "tiny", out, False, 1)
    assert durations() == steps and len(again) == 5  # one more than before
    assert plan_of(out)["matches"] == [match]


def test_an_arm_off_the_budget_is_refused(stand_ins, tmp_path):
    level = bowl({"attention": 1e-2, "lstm": 1e-2})
    trained = stand_ins(level, share=1.02)
    words = r"model\.mlp_width=100 gives params 40,800, \+2\.0 % of the 40,000"
    with pytest.raises(ValueError, match=words):
        compare.compare(write(tmp_path), "tiny", tmp_path / "out", False, 1)
    stand_ins(level, seconds={"attention": 1.0, "lstm": 8.5}.get)  # 7 steps or 8
    words = r"'lstm' is off budget: train\.duration=7 steps gives seconds 59\.5, -.* 62"
    with pytest.raises(ValueError, match=words):
        path = write(tmp_path, match=SECONDS.replace("60", "62"))
        compare.compare(path, "tiny", tmp_path / "out", False, 1)
    assert not trained and not (tmp_path / "out/plan.json").exists()


def test_a_second_call_trains_nothing_and_another_file_is_refused(stand_ins, tmp_path):
    trained = stand_ins(bowl({"attention": 1e-2, "lstm": 1e-2}))
    path, out = write(tmp_path), tmp_path / "out"
    compare.compare(path, "tiny", out, False, 1)
    assert len(trained) == 4
    compare.compare(path, "tiny", out, False, 1)
    assert len(trained) == 4
    with pytest.raises(ValueError, match="another comparison"):
        compare.compare(path, "small", out, False, 1)
    write(tmp_path, seeds=(0, 1, 2))
    with pytest.raises(ValueError, match="another comparison"):
        compare.compare(path, "tiny", out, False, 1)
    with pytest.raises(ValueError, match="has changed"):
        compare.report(out)


def test_dry_prints_the_runs_and_trains_none(stand_ins, tmp_path, capsys):
    trained = stand_ins(bowl({"attention": 1e-2, "lstm": 1e-2}))
    path = write(tmp_path, rate="Ladder(start=5e-4, ratio=2)")
    assert compare.compare(path, "tiny", tmp_path / "out", True, 2) == 0
    printed = capsys.readouterr().out
    assert not trained and not (tmp_path / "out" / "plan.json").exists()
    # 2 arms x (6 rungs + 2 seeds) of 2 steps of 1 s, by two workers.
    assert "16 runs, 0.01 hours" in printed


def test_dry_counts_tuning_where_it_is_done(stand_ins, tmp_path, capsys):
    stand_ins(bowl(BEST))
    for tune, runs in (("once", 4 * 2 + 2 * 6), ("per cell", 4 * 2 + 4 * 6)):
        lines = f'{CELLS}\nTUNE = "{tune}"'
        path = write(tmp_path, rate=LADDER, lines=lines, cell="@d16")
        compare.compare(path, "tiny", tmp_path / "out", True, 2)
        assert f"\n{runs} runs, " in capsys.readouterr().out


def test_arms_have_one_task_and_rates_a_test_of_it(stand_ins, tmp_path):
    stand_ins(bowl(BEST))
    task = {"kind": "parity", "length": 32}
    cells = {"a": {"data.task": task}, "b": {"data.task": task | {"held_out": 8}}}
    path = write(tmp_path, lines=f"CELLS = {cells}", cell="@a", match='Match("width")')
    folder = tmp_path / "out"
    compare.compare(path, "tiny", folder, True, 1)  # both are of one size
    cells["b"]["data.task"] = task | {"tests": {"x2": {"length": 64}}}
    path = write(tmp_path, lines=f"CELLS = {cells}", cell="@a", match='Match("width")')
    with pytest.raises(ConfigError, match="'attention@b' is another task"):
        compare.compare(path, "tiny", folder, False, 1)
    rate = LADDER.replace(")", ', by="validation.x3.accuracy")')
    lines = f"CELLS = {dict(a=cells['b'])}"
    path = write(tmp_path, rate=rate, lines=lines, cell="@a", match='Match("width")')
    with pytest.raises(ConfigError, match="Ladder by='x3'.*valid are same, x2"):
        compare.compare(path, "tiny", folder, False, 1)


def test_a_worker_that_dies_costs_its_task_alone(tmp_path):
    bad = Task("bad", "fit", ("{", "params", 1.0, "model.mlp_width", 256))
    config = configs.to_json(configs.resolve(configs.load("configs/base.py")))
    slow = Task("slow", "speed", (config, 1000))
    tasks = [slow, bad, bad._replace(id="later")]
    place = Slot(frozenset(os.sched_getaffinity(0)), {})
    outcomes = workers.run(tasks, [place, place], tmp_path)
    first = next(outcomes)
    assert first.task == bad and "JSONDecodeError" in first.reason
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    rest = {outcome.task.id: outcome for outcome in outcomes}
    assert rest["slow"].status == "failed" and "SIGKILL" in rest["slow"].reason
    assert "JSONDecodeError" in rest["later"].reason


def command(path: Path, out: Path) -> list[str]:
    flags = ["--tier=tiny", f"--out={out}", "--workers=2"]
    return [sys.executable, "run.py", "compare", str(path), *flags]


def figures(out: Path) -> dict:
    """Every run's test figures, which a resumed comparison must repeat bitwise."""
    found = {}
    for path in sorted(out.glob("runs/*/*/*/result.json")):
        result = json.loads(path.read_text())
        found[str(path.parent.relative_to(out))] = result["test"]["window"]["nats"]
    return found


def until(condition, seconds: float):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it did not come to this in time"
        time.sleep(0.05)


def test_a_stopped_comparison_goes_on_to_the_same_figures(tmp_path):
    path = write(tmp_path, steps=400)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(path, whole), cwd=ROOT, check=True, capture_output=True)
    expected = figures(whole)
    assert len(expected) == 4
    assert (whole / "report.html").exists()

    training = lambda: [p for p in broken.glob("runs/*/*/*/metrics.jsonl")]
    process = subprocess.Popen(command(path, broken), cwd=ROOT)
    until(lambda: len(training()) >= 2, 120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert len(figures(broken)) < 4

    process = subprocess.Popen(command(path, broken), cwd=ROOT)
    until(lambda: len(figures(broken)) > 0, 120)
    process.kill()
    process.wait()
    # Workers whose parent was killed save and leave, and free their workdirs.
    done = subprocess.run(command(path, broken), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert figures(broken) == expected
    states = {row["status"] for row in read_lines(broken / "ledger.jsonl")}
    assert states <= {"done", "preempted"}


def test_a_diverged_arm_is_a_result_with_its_step(tmp_path):
    path = write(tmp_path, seeds=(0,), rate="1e30", steps=10)
    out = tmp_path / "out"
    done = subprocess.run(command(path, out), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read_lines(out / "ledger.jsonl")
    assert [row["status"] for row in rows] == ["diverged"] * 2
    assert all("not finite at step" in row["reason"] for row in rows)
    assert "diverged at step" in (out / "report.md").read_text()


def test_a_tie_is_of_the_mean_over_tuning_seeds(tmp_path):
    by, seeds = "validation.same.accuracy", (1000, 1001, 1002)
    ladder = Ladder(1e-3, seeds=seeds, by=by, tie=0.03)
    sweep = compare.Sweep(None, None, None, {"tuned_by": by}, tmp_path, [])
    for rung, share in enumerate((0.5, 0.98, 0.98, 1.0)):
        for seed in seeds:
            row = sweep._row("params", "lstm", ladder.rate(rung), seed, True)
            path = tmp_path / row["workdir"] / "result.json"
            path.parent.mkdir(parents=True)
            result = {"status": "done", "validation": {"same": {"accuracy": share}}}
            path.write_text(json.dumps(result))
    assert sweep._best(("params", "lstm"), [0, 1, 2, 3], ladder) == 2
