"""Devices, meshes and micro-batches change nothing but the order of sums."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import lm
from lm import config as configs
from lm import optim, sharding, train
from lm.data import TrainBatches, prepare
from lm.optimizers import OPTIMIZERS
from lm.program import program
from lm.results import read_rows

ROOT = Path(lm.__file__).parent.parent
STEPS, TOLERANCE = 20, 2e-6
# A sign, and a matrix made orthogonal, do not follow the rounding of a sum smoothly.
LOOSE = {"lion": 1e-4, "muon": 1e-4}
VALUES = {
    "model.width": 16,
    "model.mlp_width": 32,
    "model.pattern": "lstm,attention",
    "model.mixers.attention.heads": 2,
    "model.mixers.attention.dropout": 0.1,
    "model.mixers.attention.bias": True,
    "model.mixers.lstm.weight_dropout": 0.1,
    "model.word_dropout": 0.1,
    "model.embedding_dropout": 0.1,
    "model.residual_dropout": 0.1,
    "model.output_dropout": 0.1,
    "data.context": 16,
    "data.train_bytes": 4_000,
    "data.eval_bytes": 400,
    "train.batch_tokens": 128,
    "train.duration": f"{STEPS} steps",
    "eval.every": f"{STEPS} steps",
    "eval.rows": 8,
    "eval.stream_chunk": 16,
    "run.checkpoint_every": "10 steps",
    "run.log_every": "1 steps",
    "run.sample_tokens": 0,
}
CARRY = {"train.state": "carry"}
MESHES = {
    "data8": {"mesh.data": -1},  # -1: so that one device may go on
    "fsdp8": {"mesh.data": 1, "mesh.fsdp": -1},
    "data4_fsdp2": {"mesh.data": 4, "mesh.fsdp": 2},
    "carried": {"mesh.data": 4, "mesh.fsdp": 2} | CARRY,
}
ONE = {"carried": {"mesh.data": 1, "mesh.fsdp": 1}}  # may go on under another mesh
EIGHT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from pathlib import Path
from lm import optim, sharding, train
from lm.checkpoint import flatten
from lm.data import TrainStreams, prepare
from lm.errors import ConfigError
from lm.optimizers import OPTIMIZERS
from lm.program import program
from tests.test_topology import CARRY, MESHES, losses, resolved

assert jax.device_count() == 8
out = Path(sys.argv[1])
rows = {name: losses(name, MESHES["fsdp8"]) for name in OPTIMIZERS}
(out / "optimizers.json").write_text(json.dumps(rows))
for name, mesh in MESHES.items():
    train.run(resolved(mesh), out / name)

config = resolved(MESHES["fsdp8"] | CARRY)
compiled, corpus = program(config, 256), prepare(config.data)
batch = sharding.put(compiled.mesh, TrainStreams(corpus, 16, 8, 0)(0))
state, _ = compiled.train_step(compiled.init(0), batch, optim.hyper(config, 20, 1))
placed = {
    path: [x.nbytes, [shard.data.nbytes for shard in x.addressable_shards]]
    for path, x in flatten(state).items()
}
(out / "placed.json").write_text(json.dumps(placed))

try:
    program(resolved({"mesh.fsdp": 3, "train.batch_tokens": 384}), 256)
except ConfigError as error:
    (out / "refused.txt").write_text(str(error))
"""


def resolved(changes=()):
    values = VALUES | dict(changes)
    return configs.resolve(configs.load(str(ROOT / "configs/base.py"), values))


def losses(name: str, mesh=()) -> tuple[list, float]:
    """(loss of each of 4 updates, share of the optimiser's bytes on the first device).

    Without dropout.
    """
    changes = {"optim.name": name, "model.pattern": "attention"} | dict(mesh)
    rates = [key for key in VALUES if key.endswith("dropout")]
    changes |= dict.fromkeys(rates, 0.0)
    if name == "schedule_free":
        changes |= {"optim.schedule": "constant"}
    config = resolved(changes)
    compiled, corpus = program(config, 256), prepare(config.data)
    batches, hyper = TrainBatches(corpus, 16, 8, 0), optim.hyper(config, 20, 1)
    state, found = compiled.init(np.int32(0)), []
    for step in range(4):
        batch = sharding.put(compiled.mesh, batches(step))
        state, metrics = compiled.train_step(state, batch, hyper)
        found.append(float(metrics["loss"]))
    moments = jax.tree.leaves(state.optimizer)
    held = sum(x.addressable_shards[0].data.nbytes for x in moments)
    return found, held / sum(x.nbytes for x in moments)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def eight(tmp_path_factory, cache):
    """A folder with what one process on eight devices left."""
    out = tmp_path_factory.mktemp("eight")
    env = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EIGHT, str(out)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """mesh -> the workdir of the same run on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        assert jax.device_count() == 1
        folder = tmp_path_factory.mktemp("one")
        for name, changes in (("run", {}), ("carried", CARRY)):
            train.run(resolved(changes), folder / name)
        yield lambda mesh: folder / ("carried" if mesh == "carried" else "run")


@pytest.fixture
def one(alone):
    return alone("data8")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizers_state_is_split_and_its_losses_are_the_same(
    name, eight, cache, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    split, held = json.loads((eight / "optimizers.json").read_text())[name]
    whole, all_of_it = losses(name)
    np.testing.assert_allclose(split, whole, LOOSE.get(name, TOLERANCE))
    assert len(set(whole)) == 4
    assert held < 0.25 and all_of_it == 1


def compare(workdir, other):
    """Same batches, and losses within the tolerance; -> the largest difference."""
    mine, theirs = (
        [row for row in read_rows(d / "metrics.jsonl") if row["kind"] == "train"]
        for d in (workdir, other)
    )
    assert [row["step"] for row in mine] == list(range(1, STEPS + 1))
    assert [row["batch"] for row in mine] == [row["batch"] for row in theirs]
    assert len({row["batch"] for row in mine}) == STEPS
    a, b = (np.array([row["loss"] for row in rows]) for rows in (mine, theirs))
    worst = (np.abs(a - b) / b).max()
    print(f"{workdir.name}: {worst:.2g}")
    assert worst <= TOLERANCE
    return worst


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_train_as_one(eight, alone, mesh):
    compare(eight / mesh, alone(mesh))
    result = json.loads((eight / mesh / "result.json").read_text())
    assert result["machine"]["devices"] == 8


def test_fsdp_splits_parameters_and_moments_and_rows_what_is_carried(eight):
    placed = json.loads((eight / "placed.json").read_text())
    ends = {path.rsplit("/", 1)[1] for path in placed if "/" in path}
    assert {"kernel", "embedding", "bias", "scale"} <= ends
    for path, (total, shards) in placed.items():
        split = path.endswith(("kernel", "embedding")) or path.startswith("carried/")
        assert shards == [total // 8 if split else total] * 8, path
    for part in ("params/", "optimizer/mu/", "optimizer/nu/"):
        sizes = [size for path, size in placed.items() if path.startswith(part)]
        held = sum(shards[0] for _, shards in sizes)
        assert held < 0.2 * sum(total for total, _ in sizes), part


@pytest.mark.parametrize("mesh", ["data8", "fsdp8", "carried"])
def test_a_checkpoint_of_eight_devices_goes_on_on_one(eight, alone, tmp_path, mesh):
    workdir = tmp_path / mesh
    shutil.copytree(eight / mesh, workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    train.run(resolved(MESHES[mesh] | ONE.get(mesh, {})), workdir)
    compare(workdir, alone(mesh))
    result = json.loads((workdir / "result.json").read_text())
    machines = [(step, machine["devices"]) for step, machine in result["machines"]]
    assert machines == [(0, 8), (10, 1)]


def test_a_mesh_that_does_not_fit_is_named(eight):
    message = (eight / "refused.txt").read_text()
    assert "mesh.fsdp=3" in message and "8 devices" in message


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_nothing(one, tmp_path, micro_batches):
    workdir = tmp_path / f"micro{micro_batches}"
    train.run(resolved({"train.micro_tokens": 128 // micro_batches}), workdir)
    assert compare(workdir, one) > 0  # 0: the split did not take place
