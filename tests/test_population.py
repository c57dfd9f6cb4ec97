"""Runs as members of one program end as they end alone."""

import functools
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from lm import count, member, population, signals, train
from lm.config import ConfigError, from_json
from lm.data import train_batches
from lm.results import read_lines
from lm.sweep import compare, workers
from lm.sweep.workers import Outcome
from tests import runs, test_sweep

TINY = dict(
    model__width=8, model__mlp_width=16, model__depth=1, data__train_bytes=2_000,
    data__eval_bytes=500, train__batch_tokens=32, train__duration="8 steps",
    eval__every="4 steps", run__checkpoint_every="4 steps",
)  # fmt: skip
# Rounding grows with the rate: from 3e-2 on two programs part by more than 1e-6.
GRID = [dict(optim__lr=r, seed=s) for r in (3e-4, 1e-3, 3e-3, 1e-2) for s in range(6)]
SOME = [GRID[0], GRID[7], GRID[20]]
TIMES = {"seconds", "tokens_per_second", "compile_seconds", "total_seconds"}


def configs(members, **changes) -> list:
    return [runs.config(**TINY | member | changes) for member in members]


def places(folder: Path, members) -> list[Path]:
    return [folder / str(number) for number in range(len(members))]


def alone(members, folder: Path) -> list[Path]:
    """Workdirs of the members' own runs."""
    found = places(folder, members)
    for config, workdir in zip(members, found, strict=True):
        train.run(config, workdir)
    return found


def near(one, other, where: str) -> None:
    """Equal but for rounding and times."""
    if isinstance(one, dict):
        keys = set(one) - TIMES - {"population"}
        assert keys == set(other) - TIMES - {"population"}, where
        for key in keys:
            near(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            near(*pair, f"{where}/{index}")
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, 1e-5, 1e-7, err_msg=where)
    else:
        assert one == other, where


def assert_near(one: Path, other: Path) -> None:
    """Two workdirs have the same files, and their numbers agree to 1e-5."""
    names = lambda folder: {str(p.relative_to(folder)) for p in folder.glob("*")}
    assert names(one) == names(other)
    steps = lambda folder: {p.name for p in (folder / "checkpoints").glob("*")}
    assert steps(one) == steps(other)
    near(runs.rows(one), runs.rows(other), f"{one} rows")
    near(runs.result(one), runs.result(other), f"{one} result")
    for name in ("config.json", "data.json"):
        assert (one / name).read_text() == (other / name).read_text(), name
    card = lambda folder: json.loads((folder / "card.json").read_text())
    ends = lambda folder: [row["end"]["status"] for row in card(folder)["starts"]]
    assert ends(one)[-1] == ends(other)[-1]
    samples = lambda folder: {p.name for p in (folder / "samples").glob("*")}
    assert samples(one) == samples(other)
    states = [runs.state(workdir) for workdir in (one, other)]
    assert states[0].keys() == states[1].keys()
    for path, value in states[0].items():
        np.testing.assert_allclose(value, states[1][path], 1e-5, 1e-6, err_msg=path)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Workdirs of the runs of GRID, each alone; their costs are counted once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train.count, "summary", functools.cache(count.summary))
        return alone(configs(GRID), tmp_path_factory.mktemp("alone"))


def test_24_members_equal_their_own_runs(grid, tmp_path):
    folders = places(tmp_path, GRID)
    results = population.run(configs(GRID), folders)
    for workdir, own, result in zip(folders, grid, results, strict=True):
        assert_near(workdir, own)
        assert json.loads(json.dumps(result)) == runs.result(workdir)
        assert result["speed"]["population"] == 24
    wall = sum(result["speed"]["total_seconds"] for result in results)
    shares = [result["speed"]["seconds"] for result in results]
    assert sum(shares) < wall and np.ptp(shares) < 1e-9
    losses = [runs.losses(workdir) for workdir in folders]
    assert len({tuple(loss) for loss in losses}) == 24


def test_members_start_from_the_draws_of_their_own_runs(tmp_path):
    """With a rate of 1e-30 they stay what they were."""
    members = configs(SOME, optim__lr=1e-30, optim__weight_decay=0.0)
    folders = places(tmp_path / "all", members)
    population.run(members, folders)
    for one, other in zip(folders, alone(members, tmp_path / "own"), strict=True):
        for path, value in runs.state(one).items():
            if path.startswith("params/"):
                # A bias of 0 becomes the rate.
                np.testing.assert_allclose(value, runs.state(other)[path], 0, 1e-25)


def test_a_member_that_diverges_ends_alone_and_the_others_go_on(grid, tmp_path):
    members = configs([SOME[0], SOME[1] | dict(optim__lr=1e30), SOME[2]])
    folders = places(tmp_path / "all", members)
    population.run(members, folders)
    train.run(members[1], tmp_path / "own")
    lost = runs.result(folders[1])
    assert lost["status"] == "diverged" and lost["speed"]["population"] == 3
    near(lost, runs.result(tmp_path / "own"), "diverged")
    assert [r["step"] for r in runs.rows(folders[1])] == [
        r["step"] for r in runs.rows(tmp_path / "own")
    ]
    assert_near(folders[0], grid[0])
    assert_near(folders[2], grid[20])


def test_all_diverging_members_end(tmp_path):
    members = configs(SOME, optim__lr=1e30)
    results = population.run(members, places(tmp_path, members))
    assert [r["status"] for r in results] == ["diverged"] * 3


def interrupted(members, folders) -> None:
    """population.run, which a signal ends; the process stays."""

    class Left(BaseException):
        pass

    def leave(code):
        raise Left(code)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signals, "leave", leave)
        try:
            with pytest.raises(Left, match=str(signals.EXIT_PREEMPTED)):
                population.run(members, folders)
        finally:
            signals.Interrupts.active.__exit__(None, None, None)


def strike() -> None:
    signal.raise_signal(signal.SIGUSR1)


def assert_goes_on(members, folders, own) -> None:
    population.run(members, folders)
    for workdir, other in zip(folders, own, strict=True):
        assert_near(workdir, other)


def test_a_signal_between_updates_saves_every_member(grid, tmp_path, monkeypatch):
    members, folders = configs(SOME), places(tmp_path, SOME)

    def batches(corpus, config):
        own = train_batches(corpus, config)

        def call(step):
            if step == 3 and config.seed == 1:
                strike()
            return own(step)

        call.steps_per_epoch = own.steps_per_epoch
        return call

    with monkeypatch.context() as patched:
        patched.setattr(member, "train_batches", batches)
        interrupted(members, folders)
    for workdir in folders:
        assert runs.state(workdir)["step"] == 3
        assert len(runs.losses(workdir)) == 3
        assert not (workdir / "result.json").exists()
    assert_goes_on(members, folders, [grid[number] for number in (0, 7, 20)])


def test_a_signal_after_the_first_member_ended(grid, tmp_path, monkeypatch):
    members, folders = configs(SOME), places(tmp_path, SOME)
    judge, calls = train.judge, []

    def struck(*args):
        calls.append(args)
        if len(calls) == 6:  # three at step 4, two of the first member's end
            strike()
        return judge(*args)

    with monkeypatch.context() as patched:
        patched.setattr(train, "judge", struck)
        interrupted(members, folders)
    ended = [(workdir / "result.json").exists() for workdir in folders]
    assert ended == [True, False, False]
    before = (folders[0] / "result.json").read_bytes()
    assert_goes_on(members, folders, [grid[number] for number in (0, 7, 20)])
    assert (folders[0] / "result.json").read_bytes() == before
    assert runs.result(folders[2])["speed"]["population"] == 2


def test_only_members_of_equal_progress_are_one_program(grid, tmp_path):
    """And one that has ended is left as it is."""
    numbers = (0, 7, 20, 1)
    members = configs([GRID[number] for number in numbers])
    folders = places(tmp_path, members)
    shutil.copytree(grid[0], folders[0])
    shutil.copytree(grid[7], folders[1])
    (folders[1] / "result.json").unlink()
    shutil.rmtree(folders[1] / "checkpoints" / "8")
    before = (folders[0] / "result.json").stat().st_mtime_ns
    results = population.run(members, folders)
    assert [r["speed"].get("population") for r in results] == [None, None, 2, 2]
    assert (folders[0] / "result.json").stat().st_mtime_ns == before
    for workdir, number in zip(folders, numbers, strict=True):
        assert_near(workdir, grid[number])


TASK = dict(
    data__task__kind="parity",
    data__task__length=16,
    data__task__tests__longer__length=24,
)


def test_a_task_with_a_carried_number_of_every_kind(tmp_path):
    """Of terms and averages that members differ in, with attention."""
    members = [
        runs.config(("attention",), **TINY | TASK | own | dict(train__average="polyak"))
        for own in (
            dict(seed=3, loss__z_loss=1e-3, train__polyak_start="2 steps"),
            dict(seed=4, loss__z_loss=1e-1, optim__warmup="3 steps", name="other"),
        )
    ]
    folders = places(tmp_path / "all", members)
    population.run(members, folders)
    for one, other in zip(folders, alone(members, tmp_path / "own"), strict=True):
        assert_near(one, other)
    assert "longer" in runs.result(folders[0])["test"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(model__width=16), "model.width"),
        (dict(loss__z_loss=1e-3), "loss.z_loss"),
        (dict(train__duration="9 steps"), "train.duration"),
        (dict(eval__every="2 steps", seed=5), "eval.every"),
        (dict(run__checkpoint_every="2 steps"), "run.checkpoint_every"),
    ],
)
def test_members_of_two_programs_are_refused_by_key(changes, key, tmp_path):
    members = configs([{}, dict(seed=1, optim__lr=1e-3), changes])
    with pytest.raises(ConfigError, match=f"^{re.escape(key)} is "):
        population.run(members, places(tmp_path, members))
    assert not list(tmp_path.iterdir())


def test_members_are_split_over_devices(grid, tmp_path):
    """Two of them over two, and three of them on each of two."""
    code = (
        "from tests import test_population as t; from pathlib import Path\n"
        "for name, members in (('two', t.SOME[:2]), ('three', t.SOME)):\n"
        "    t.population.run(t.configs(members, run__sample_tokens=0),"
        f" t.places(Path({str(tmp_path)!r}) / name, members))\n"
    )
    with runs.Process("-c", code, cache=tmp_path / "cache", devices=2) as process:
        process.end()
    for name, numbers in {"two": (0, 7), "three": (0, 7, 20)}.items():
        folders = places(tmp_path / name, numbers)
        for workdir, number in zip(folders, numbers, strict=True):
            result, own = runs.result(workdir), runs.result(grid[number])
            assert result["machine"]["devices"] == 2
            near(result["test"], own["test"], str(workdir))
            near(runs.rows(workdir), runs.rows(grid[number]), str(workdir))


def rows_of(groups: dict) -> list[dict]:
    return [
        {"match": "params", "arm": arm, "id": f"{arm}{number}"}
        for arm, count in groups.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("groups", "most", "slots", "sizes"),
    [
        ({"a": 5, "b": 3}, 1, 2, [1] * 8),
        ({"a": 5, "b": 3}, 24, 1, [5, 3]),
        ({"a": 5, "b": 3}, 4, 1, [3, 2, 3]),
        ({"a": 12}, 24, 4, [3, 3, 3, 3]),
        ({}, 24, 2, []),
    ],
)
def test_runs_of_one_arm_go_together(groups, most, slots, sizes):
    rows = rows_of(groups)
    parts = workers.together(rows, most, slots)
    assert [len(part) for part in parts] == sizes
    assert sorted(row["id"] for part in parts for row in part) == sorted(
        row["id"] for row in rows
    )
    assert all(len({row["arm"] for row in part}) == 1 for part in parts)
    if most == 1:
        assert [part[0] for part in parts] == rows


def test_a_cpu_trains_runs_by_themselves_and_a_card_many_at_once(tmp_path, monkeypatch):
    assert workers.members(tmp_path, {}) == 1
    cards = workers.accelerators.Cards("cuda", ["0"])
    monkeypatch.setattr(workers.accelerators, "usable", lambda *_: cards)
    assert workers.members(tmp_path, {}) == 24


def test_a_comparison_has_a_task_a_population_and_a_row_a_run(tmp_path, monkeypatch):
    """A worker that dies costs its runs, which the same command trains again."""
    monkeypatch.chdir(test_sweep.ROOT)
    monkeypatch.setitem(workers.MEMBERS, "cpu", 4)
    given, dies = [], [True]

    def run(tasks, places, log):
        for task in tasks:
            if task.function == "fit":
                yield Outcome(task, "done", (100, task.arguments[2]), "")
                continue
            if task.function == "speed":
                yield Outcome(task, "done", {"step_seconds": 1.0}, "")
                continue
            given.append(task)
            if dies and "lstm" in task.id:
                dies.pop()
                yield Outcome(task, "failed", None, "killed")
                continue
            found = []
            for text, workdir in zip(*task.arguments, strict=True):
                seed = json.loads(text)["seed"]
                status = "diverged" if seed == 2 else "done"
                found.append({"status": status, "diverged_at": 7, "told": f"{seed}"})
                Path(workdir).mkdir(parents=True)
                (Path(workdir) / "result.json").write_text(json.dumps(found[-1]))
            yield Outcome(task, "done", found, "")

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(compare.reports, "write", lambda out, claims: out)
    path, out = test_sweep.write(tmp_path, seeds=(0, 1, 2, 3, 4)), tmp_path / "out"
    assert compare.compare(path, "tiny", out, False, 1) == 4
    functions = [(task.group, task.function) for task in given]
    assert functions == [
        (f"params/{arm}", "members") for arm in ("attention", "lstm") for _ in range(2)
    ]
    assert [len(task.arguments[0]) for task in given] == [3, 2, 3, 2]
    rows = read_lines(out / "ledger.jsonl")
    assert len(rows) == len({row["run"] for row in rows}) == 10
    lost = {row["run"] for row in rows if row["status"] == "failed"}
    assert len(lost) == 3 and {r["reason"] for r in rows if r["run"] in lost} == {
        "killed"
    }
    for row in rows:
        if row["run"] not in lost:
            assert row["status"] == ("diverged" if row["seed"] == 2 else "done")
            assert row["workdir"].endswith(f"seed{row['seed']}")
    assert compare.compare(path, "tiny", out, False, 1) == 0
    assert len(given) == 5 and len(given[-1].arguments[0]) == 3
    rows = read_lines(out / "ledger.jsonl")[10:]
    assert {row["run"] for row in rows} == lost


def test_a_comparison_by_real_workers_trains_populations(tmp_path, monkeypatch):
    monkeypatch.chdir(test_sweep.ROOT)
    monkeypatch.setitem(workers.MEMBERS, "cpu", 4)
    monkeypatch.setattr(compare.plans, "SPEED_SECONDS", 0.0)
    monkeypatch.setattr(compare.reports, "write", lambda out, claims: out)
    path, out = test_sweep.write(tmp_path, steps=6), tmp_path / "out"
    assert compare.compare(path, "tiny", out, False, 1) == 0
    found = sorted(out.glob("runs/*/*/*"))
    assert len(found) == len(read_lines(out / "ledger.jsonl")) == 4
    for workdir in found:
        assert runs.result(workdir)["speed"]["population"] == 2
    last = found[-1]  # an LSTM's
    own = train.run(from_json((last / "config.json").read_text()), tmp_path / "own")
    near(runs.result(last)["test"], own["test"], "test")
    near(runs.rows(last), runs.rows(tmp_path / "own"), "rows")
