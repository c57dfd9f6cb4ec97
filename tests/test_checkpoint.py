"""Checkpoints: bitwise, refused when they do not fit, and never lost to a kill."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import manifest
from lm.checkpoint import Checkpoints, SaveFailed
from lm.manifest import CorruptCheckpoint
from lm.workdir import truncate_rows, workdir_lock

ROOT = Path(__file__).parent.parent
META = {"data": "fingerprint", "tokens": 4096, "rate": 0.1}


class State(NamedTuple):
    params: Any
    optimizer: Any
    step: jax.Array


def make(step: int, rows: int = 8) -> State:
    """A state whose every value depends on `step`; [rows, 16] is its largest array."""
    kernel = np.random.default_rng(step).standard_normal((rows, 16), np.float32)
    params = {
        "units": {"mixer_0": {"kernel": jnp.asarray(kernel)}},
        "scale": jnp.full(3, step + 0.5, jnp.bfloat16),
        "ids": [jnp.array([True, False]), jnp.zeros((0, 4))],
    }
    moments = (jax.tree.map(jnp.zeros_like, params), None, jnp.float32(1 / 3))
    return State(params, moments, jnp.int32(step))


def abstract(state):
    return jax.eval_shape(lambda: state)


def bits(tree) -> list:
    return [
        (str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)
    ]


@pytest.fixture
def checkpoints(tmp_path):
    """Two committed steps, 1 and 2."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, make(step), META)
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def child(code: str, *args, **kwargs) -> subprocess.Popen:
    """A Python process with `make` and the imports above at hand."""
    setup = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    command = [sys.executable, "-c", setup + code, *map(str, args)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **pipes, **kwargs)


def test_restores_every_bit_the_meta_and_the_newest(checkpoints):
    for step in (1, 2):
        state, meta = checkpoints.restore(step, abstract(make(0)))
        assert bits(state) == bits(make(step)) and meta == META
        assert jax.tree.structure(state) == jax.tree.structure(make(0))
    step, state, meta = checkpoints.restore_latest(abstract(make(0)))
    assert (step, bits(state), meta) == (2, bits(make(2)), META)
    params = checkpoints.restore_params(1, abstract(make(0).params))
    assert bits(params) == bits(make(1).params)
    assert Checkpoints(checkpoints.folder / "none", 1).restore_latest(None) is None


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    update = jax.jit(
        lambda s: jax.tree.map(lambda x: ~x if x.dtype == bool else x + 1, s),
        donate_argnums=0,
    )
    state = make(5, rows=100_000)
    expected = bits(state)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(5, state, META)
    for _ in range(5):
        state = update(state)
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path, keep=1).restore(5, abstract(state))
    assert bits(restored) == expected != bits(state)


def test_keeps_the_newest_and_refuses_to_save_a_step_twice(checkpoints):
    with pytest.raises(ValueError, match="step 2 is already saved"):
        checkpoints.save(2, make(3), META)
    checkpoints.save(3, make(3), META)
    with pytest.raises(ValueError, match="step 3 is already saved"):
        checkpoints.save(3, make(4), META)
    checkpoints.ensure(3, make(4), META)
    checkpoints.ensure(10, make(10), META)
    assert checkpoints.steps() == [3, 10]
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["10", "3"]
    assert bits(checkpoints.restore(3, abstract(make(0)))[0]) == bits(make(3))
    with pytest.raises(ValueError, match=r"no step 2 in .*; it has \[3, 10\]"):
        checkpoints.restore(2, abstract(make(0)))


def test_a_state_that_does_not_fit_is_refused_by_name(checkpoints):
    s = make(0)
    longer = (*s.optimizer[:2], jnp.zeros(2))
    fewer = {k: x for k, x in s.params.items() if k != "scale"}
    others = {
        "(step: saved ['int32', []], wanted ['float32', []])": s._replace(
            step=jnp.float32(0)
        ),
        "(optimizer/2: saved ['float32', []], wanted ['float32', [2]])": s._replace(
            optimizer=longer
        ),
        "(params/scale: saved ['bfloat16', [3]], wanted nothing)": (
            s._replace(params=fewer)
        ),
        "(params/more: saved nothing, wanted ['float32', [1]])": (
            s._replace(params=s.params | {"more": jnp.zeros(1)})
        ),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            checkpoints.restore_latest(abstract(other))
    with pytest.raises(ValueError, match="params/scale"):
        checkpoints.restore_params(1, abstract(fewer))
    assert checkpoints.steps() == [1, 2]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "missing file": lambda step: next(step.rglob("manifest.ocdbt")).unlink(),
    "truncated file": lambda step: os.truncate(next((step / "d").iterdir()), 50),
    "flipped byte": lambda step: flip(
        max((step / "ocdbt.process_0/d").iterdir(), key=lambda p: p.stat().st_size), 100
    ),
    "no manifest": lambda step: (step / manifest.MANIFEST).unlink(),
    "empty manifest": lambda step: os.truncate(step / manifest.MANIFEST, 0),
    "changed manifest": lambda step: (step / manifest.MANIFEST).write_text(
        (step / manifest.MANIFEST).read_text().replace("bfloat16", "float32")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_step_is_set_aside_and_none_left_refuses(checkpoints, damage, capfd):
    folder, wanted = checkpoints.folder, abstract(make(0))
    damage(folder / "2")
    with pytest.raises(CorruptCheckpoint, match="2 is damaged"):
        checkpoints.restore(2, wanted)
    assert checkpoints.steps() == [1, 2]
    step, state, _ = checkpoints.restore_latest(wanted)
    assert (step, bits(state)) == (1, bits(make(1)))
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2.bad"]
    assert capfd.readouterr().err.count("\n") == 1
    checkpoints.ensure(2, make(2), META)
    for name in "12":
        damage(folder / name)
    for _ in range(2):
        with pytest.raises(CorruptCheckpoint, match=r"1\.bad, 2\.bad, 2\.bad\+"):
            checkpoints.restore_latest(wanted)
    assert "WARNING" in capfd.readouterr().err


def test_a_save_that_fails_is_raised_once_and_not_listed(checkpoints):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = make(3, rows=10_000)
    try:
        for retry in (lambda: checkpoints.save(4, big, META), checkpoints.wait):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
            checkpoints.save(3, big, META)
            with pytest.raises(SaveFailed, match="step 3 could not be saved"):
                retry()
            assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, big, META)
        checkpoints.ensure(4, make(4), META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints._orbax, "save", lambda *args, **kwargs: None)
        checkpoints.save(3, big, META)
        with pytest.raises(SaveFailed, match="not committed"):
            checkpoints.wait()
    checkpoints.save(3, big, META)
    checkpoints.wait()
    assert checkpoints.steps() == [3, 4]
    assert bits(checkpoints.restore(3, abstract(big))[0]) == bits(big)


SAVING = """
from test_checkpoint import *
checkpoints = Checkpoints(Path(sys.argv[1]), 2)
checkpoints.ensure(1, make(1, 100_000), META)
if sys.argv[2] == "written":
    manifest.checksum = lambda path: print("written", flush=True) or time.sleep(60)
checkpoints.save(2, make(2, 100_000), META)
print("saved", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "line, seconds", [("written", 0), ("saved", 0), ("saved", 0.02), ("saved", 0.1)]
)
def test_a_kill_during_an_asynchronous_save_costs_that_save_at_most(
    tmp_path, line, seconds
):
    """Killed when save() returned, or when all files are written but not committed."""
    process = child(SAVING, tmp_path, line)
    while process.stdout.readline() != f"{line}\n":
        assert process.poll() is None
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[1] == ""
    torn = [p.name for p in tmp_path.iterdir() if not p.name.isdigit()]
    checkpoints = Checkpoints(tmp_path, keep=2)
    latest = checkpoints.latest()
    assert latest in ((1,) if torn else (1, 2))
    assert torn or line != "written"
    step, state, _ = checkpoints.restore_latest(abstract(make(0, 100_000)))
    assert step == latest and bits(state) == bits(make(step, 100_000))
    assert all(p.name.isdigit() for p in tmp_path.iterdir())
    checkpoints.ensure(2, make(2, 100_000), META)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


RESHARD = """
from test_checkpoint import *
jax.config.update("jax_num_cpu_devices", 8)
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
def place(x):
    spec = jax.P("fsdp") if x.shape[:1] == (8,) else jax.P()
    sharding = jax.NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
checkpoints = Checkpoints(Path(sys.argv[1]), 3)
wanted = jax.tree.map(place, abstract(make(0)))
state, meta = checkpoints.restore(1, wanted)
assert bits(state) == bits(make(1))
same = jax.tree.map(lambda x, w: x.sharding == w.sharding, state, wanted)
assert all(jax.tree.leaves(same))
kernel = state.params["units"]["mixer_0"]["kernel"]
assert kernel.addressable_shards[0].data.shape == (1, 16)
checkpoints.save(3, state._replace(step=state.step + 2), meta)
checkpoints.close()
"""


def test_one_device_to_eight_and_back(checkpoints):
    process = child(RESHARD, checkpoints.folder)
    assert process.communicate()[1] == "" and process.returncode == 0
    state, meta = checkpoints.restore(3, abstract(make(0)))
    assert bits(state) == bits(make(1)._replace(step=jnp.int32(3))) and meta == META
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(state))


def test_one_trainer_holds_a_workdir(tmp_path):
    code = """
from pathlib import Path; import time
from lm.workdir import workdir_lock
with workdir_lock(Path(sys.argv[1])):
    print("held", flush=True); time.sleep(60)
"""
    process = child(code, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    held = rf"run is in use by pid {process.pid} on \S+: stop that run"
    for _ in range(2):
        with pytest.raises(ValueError, match=held), workdir_lock(tmp_path / "run"):
            raise AssertionError("two trainers hold one workdir")
    process.kill()
    process.communicate()
    mine = pytest.raises(ValueError, match=f"pid {os.getpid()}")
    with workdir_lock(tmp_path / "run"), mine, workdir_lock(tmp_path / "run"):
        raise AssertionError("two trainers hold one workdir")
    with workdir_lock(tmp_path / "run"):
        pass


def test_rows_after_the_restored_step_and_a_torn_one_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_rows(path, 3)
    assert not path.exists()
    rows = [
        json.dumps({"kind": "train", "step": s, "loss": 2.5}) + "\n" for s in range(6)
    ]
    path.write_text("".join(rows) + '{"kind": "train", "st')
    truncate_rows(path, 3)
    assert path.read_text() == "".join(rows[:4])
    path.write_text("".join(rows) + rows[5].strip())
    truncate_rows(path, 9)
    assert path.read_text() == "".join(rows)
    path.write_text(rows[0] + "{torn\n" + rows[1])
    with pytest.raises(ValueError, match="line 2: b'{torn"):
        truncate_rows(path, 0)
    assert path.read_text() == rows[0] + "{torn\n" + rows[1]
    path.write_text(rows[0])
    truncate_rows(path, -1)
    assert path.read_text() == "" and [p.name for p in tmp_path.iterdir()] == [
        path.name
    ]
