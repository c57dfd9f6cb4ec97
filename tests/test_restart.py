"""Real processes that are killed or asked to stop end as the unbroken run, bitwise."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lm
from lm import cli, optim, sequence, sharding, train
from lm import config as configs
from lm.checkpoint import WRITING, Checkpoints
from lm.data import Batch
from lm.mixers import MIXERS
from lm.program import program
from lm.results import read_lines
from lm.workdir import workdir_lock
from tests.subjects import same, spec

ROOT = Path(lm.__file__).parent.parent
TINY = {
    "model.width": 16,
    "model.mlp_width": 32,
    "model.embedding_dropout": 0.2,
    "model.residual_dropout": 0.2,
    "data.context": 16,
    "data.train_bytes": 4_000,
    "data.eval_bytes": 1_000,
    "train.batch_tokens": 64,
    "train.duration": "6 steps",
    "eval.every": "2 steps",
    "eval.rows": 4,
    "eval.stream_chunk": 16,
    "run.checkpoint_every": "3 steps",
    "run.log_every": "1 steps",
    "run.sample_tokens": 4,
}
# 25 MB of state: a save of it takes long enough to be hit.
LARGE = TINY | {"model.width": 256, "model.mlp_width": 1024}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache of token files and compiled programs for all processes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def at_the_root(cache, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def command(workdir, values):
    flags = (f"--config.{key}={value}" for key, value in values.items())
    return ["train", "--config=configs/base.py", f"--workdir={workdir}", *flags]


def start(workdir, values, **env):
    """The trainer as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "run.py", *command(workdir, values)],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir, values, **env):
    """What a trainer that must end well printed."""
    process = start(workdir, values, **env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return out


def until(process, found):
    """Waits until `found()` is true of what a live process left on disk."""
    while not found():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"ended with {process.returncode} too early: {out}{err}")
        time.sleep(0.002)


def rows(workdir, kind="train"):
    """Rows of one kind as they stand in the file, without the clock."""
    path = workdir / "metrics.jsonl"
    found = read_lines(path) if path.exists() else []
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in found
        if row["kind"] == kind
    ]


def steps(workdir):
    return Checkpoints(workdir / "checkpoints", 1).steps()


def listed(workdir):
    """As `steps`, cheap enough to be asked every few milliseconds."""
    found = (path.name for path in (workdir / "checkpoints").glob("*"))
    return sorted(int(name) for name in found if name.isdigit())


def saved(workdir, step):
    """{path: array} of a checkpoint, in the form that its manifest states."""
    path = workdir / "checkpoints" / str(step) / "manifest.json"
    abstract = {
        path: jax.ShapeDtypeStruct(shape, dtype)
        for path, (dtype, shape) in json.loads(path.read_text())["tree"].items()
    }
    state, _ = Checkpoints(workdir / "checkpoints", 1).restore(step, abstract)
    return jax.tree.map(np.asarray, state)


def assert_same_run(workdir, other, step):
    """State, rows (with the hash of every batch), samples and figures of two runs."""
    state = saved(workdir, step)
    assert {path.split("/")[0] for path in state} == {"params", "optimizer", "step"}
    assert state["step"] == step
    same(state, saved(other, step))
    for kind in ("train", "validation"):
        assert rows(workdir, kind) == rows(other, kind)
    assert [row["step"] for row in rows(workdir)] == list(range(1, step + 1))
    mine, theirs = (
        json.loads((folder / "result.json").read_text()) for folder in (workdir, other)
    )
    for name in ("status", "step", "fingerprint", "validation", "test"):
        assert mine[name] == theirs[name], name
    mine, theirs = (
        {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
        for folder in (workdir, other)
    )
    assert mine == theirs


@pytest.mark.parametrize("pattern", ["lstm", "rglru", "attention", "lstm,attention"])
def test_killed_between_saves(tmp_path, pattern):
    """Step 3 is saved, and the kill comes in the evaluation after step 4."""
    values = TINY | {"model.pattern": pattern, "eval.every": "4 steps"}
    if "attention" in pattern:
        values |= {"model.mixers.attention.dropout": 0.2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(whole, values)
    process = start(broken, values)
    until(process, lambda: len(rows(broken)) == 4 and listed(broken) == [3])
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert steps(broken) == [3] and not rows(broken, "validation")
    assert "going on from step 3" in finish(broken, values)
    assert_same_run(broken, whole, 6)


def test_killed_during_a_save(tmp_path):
    values = LARGE | {"run.checkpoint_every": "2 steps", "eval.every": "6 steps"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(whole, values)
    draft = broken / "checkpoints" / f"4{WRITING}"
    for _ in range(8):
        shutil.rmtree(broken, ignore_errors=True)
        process = start(broken, values)
        until(process, draft.exists)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        if draft.exists():  # else the save was over before the kill
            break
    assert draft.exists() and steps(broken) == [2]
    assert "going on from step 2" in finish(broken, values)
    assert not draft.exists()
    assert_same_run(broken, whole, 6)


def test_a_signal_in_any_phase_saves_and_the_same_command_goes_on(tmp_path):
    """Stopped in compilation, in a step, in evaluation, and in a step by SIGINT."""
    values = TINY | {
        "model.depth": 3,
        "model.pattern": "lstm,attention,rglru",
        "model.mixers.attention.dropout": 0.2,
        "train.duration": "300 steps",
        "eval.every": "150 steps",
        "run.checkpoint_every": "200 steps",
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cold = [{"JAX_COMPILATION_CACHE_DIR": str(tmp_path / name)} for name in "ab"]
    finish(whole, values, **cold[0])
    speed = json.loads((whole / "result.json").read_text())["speed"]
    compiled = lambda name: any((tmp_path / "b").glob(f"jit_{name}*"))

    def stop(number, found, delay=0.0):
        """Sends a signal `delay` seconds after `found`; -> the step that was saved."""
        process = start(broken, values, **cold[1])
        until(process, found)
        time.sleep(delay)
        begin = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        print(f"{time.monotonic() - begin:.2f} s to exit")
        assert process.returncode == 75, out + err
        assert f"{signal.Signals(number).name}: saving and leaving" in err
        step = steps(broken)[-1]
        assert saved(broken, step)["step"] == step == len(rows(broken))
        assert not (broken / "result.json").exists()
        return step

    half = speed["compile_seconds"] / 2
    assert stop(signal.SIGTERM, lambda: compiled("initial_state"), half) == 0
    assert not compiled("train_step")
    at = lambda step: lambda: len(rows(broken)) >= step
    assert 20 <= stop(signal.SIGTERM, at(20)) < 150
    assert stop(signal.SIGTERM, at(150)) == 150
    assert not rows(broken, "validation")
    assert 170 <= stop(signal.SIGINT, at(170)) < 300
    finish(broken, values, **cold[1])
    assert_same_run(broken, whole, 300)


def test_one_trainer_and_one_run_a_workdir(tmp_path, capsys):
    workdir = tmp_path / "run"
    files = lambda: {
        path: path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert cli.main(command(workdir, TINY)) == 0
    before = files()
    with workdir_lock(workdir):
        process = start(workdir, TINY)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"error: workdir {workdir} is in use by pid {os.getpid()} ")
    assert err.count("\n") == 1

    capsys.readouterr()
    for key, value in (("optim.lr", 1e-3), ("train.duration", "7 steps")):
        assert cli.main(command(workdir, TINY | {key: value})) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f" {key} is " in err
    assert cli.main(command(workdir, TINY)) == 0
    assert "done at step 6 already" in capsys.readouterr().out
    assert files() == before
    # Keys that change no result may change.
    assert cli.main(command(workdir, TINY | {"run.keep": 5})) == 0


def resolved(changes):
    return configs.resolve(configs.load("configs/base.py", TINY | changes))


def test_own_workdir_then_init_from_then_scratch(tmp_path, monkeypatch):
    saves, save = [], Checkpoints.save
    spy = lambda self, step, *rest: (saves.append(step), save(self, step, *rest))[1]
    monkeypatch.setattr(Checkpoints, "save", spy)
    first, tuned, again = (tmp_path / name for name in ("first", "tuned", "again"))
    train.run(resolved({}), first)
    assert saves == [3, 6]
    assert [row["step"] for row in rows(first, "validation")] == [2, 4, 6]

    # A rate that moves nothing shows what a run started from.
    still = {"optim.lr": 1e-30, "run.init_from": str(first)}
    train.run(resolved(still), tuned)
    want, got = saved(first, 6), saved(tuned, 6)
    for path in (path for path in want if path.startswith("params/")):
        np.testing.assert_allclose(got[path], want[path], 0, 1e-25)
    assert got["step"] == got["optimizer/count"] == 6
    assert rows(tuned)[0]["batch"] == rows(first)[0]["batch"]

    shutil.copytree(first, again)
    (again / "result.json").unlink()
    shutil.rmtree(again / "checkpoints" / "6")
    train.run(resolved({"run.init_from": str(tuned)}), again)
    assert_same_run(again, first, 6)


def test_a_diverged_run_keeps_no_bad_state(tmp_path):
    values = TINY | {"optim.lr": 1e30, "run.checkpoint_every": "1 steps"}
    assert cli.main(command(tmp_path, values)) == 3
    result = json.loads((tmp_path / "result.json").read_text())
    last = rows(tmp_path)[-1]
    assert result["status"] == "diverged" and result["diverged_at"] == last["step"] < 6
    assert not all(map(math.isfinite, (v for k, v in last.items() if k != "kind")))
    assert max(steps(tmp_path), default=0) < last["step"]
    for step in steps(tmp_path):
        assert all(np.isfinite(x).all() for x in saved(tmp_path, step).values())
    assert cli.main(command(tmp_path, values)) == 3


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_goes_on_from_its_checkpoint(tmp_path, name):
    fields = spec(name)
    if "dropout" in MIXERS[name].__dataclass_fields__:
        fields |= {"dropout": 0.2}
    prefix = f"model.mixers.{name}."
    config = resolved(
        {"model.pattern": (name,)} | {prefix + k: v for k, v in fields.items()}
    )
    compiled, hyper = program(config, 256), optim.hyper(config, 6, 1)

    @functools.cache
    def batch(step):
        draw = np.random.default_rng(step).integers(0, 256, (4, 17), dtype=np.int32)
        seq = sequence.from_segments(np.repeat([[1] * 7 + [2] * 9], 4, 0))
        host = Batch(draw[:, :-1], draw[:, 1:], np.ones((4, 16), np.float32), seq)
        return sharding.put(compiled.mesh, host)

    def go_on(state, first):
        losses = []
        for step in range(first, first + 3):
            state, metrics = compiled.train_step(state, batch(step), hyper)
            losses.append(float(metrics["loss"]))
        return state, losses

    state, losses = go_on(compiled.init(jnp.int32(0)), 0)
    assert len(set(losses)) == 3
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(3, state, {})
    want = go_on(state, 3)  # donates the state while it is being written
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path, 1).restore(3, compiled.abstract)
    same(go_on(restored, 3), want)
