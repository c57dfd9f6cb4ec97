"""Rows of metrics.jsonl told to other writers: each once, whatever befalls a run."""

import functools
import importlib.machinery
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from lm import record, train
from lm.config import ConfigError
from lm.results import read_lines
from lm.writers import WRITERS
from tests import runs


def events(workdir) -> list:
    """The events of a run's one event file, read by the framing of TFRecord."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (workdir / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        end = 12 + int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return found


def points(workdir) -> list[tuple]:
    """(step, tag, value) of each point of the event file, in its order."""
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


def points_of_rows(workdir) -> list[tuple]:
    return [
        (row["step"], f"{row['kind']}/{name}", np.float32(value))
        for row in read_lines(workdir / "metrics.jsonl")
        for name, value in row.items()
        if name not in ("kind", "step", "batch")
    ]


def cut_back(workdir, step: int) -> None:
    """As if the process had been killed after `step`, with later rows written."""
    (workdir / "result.json").unlink()
    for path in (workdir / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)


def test_the_event_file_has_each_row_once_also_after_a_kill(tmp_path):
    config = runs.config(run__record=("tensorboard",))
    train.run(config, tmp_path)
    whole = points(tmp_path)
    assert whole == points_of_rows(tmp_path)
    assert {tag for _, tag, _ in whole} >= {"train/loss", "validation/bits_per_byte"}

    cut_back(tmp_path, step=4)
    train.run(config, tmp_path)
    assert points(tmp_path) == points_of_rows(tmp_path)
    untimed = lambda found: [p for p in found if p[1] != "train/seconds"]
    assert untimed(points(tmp_path)) == untimed(whole)
    times = [event.wall_time for event in events(tmp_path)[2:]]
    assert times == sorted(times)


CHILD = """
import sys, pathlib, types
from lm.record import Record
config = types.SimpleNamespace(run=types.SimpleNamespace(record={names}))
with Record(config, pathlib.Path(sys.argv[1])) as record:
    record(dict(kind="train", step=1, tokens=64, loss=2.0, batch=7, seconds=0.5))
packages = {{name.partition(".")[0] for name in sys.modules}}
print(*sorted({{"torch", "tensorflow", "jax", "tensorboardX"}} & packages))
"""


@pytest.mark.parametrize(
    "names, loaded", [((), ""), (("tensorboard",), "tensorboardX")]
)
def test_a_writer_imports_neither_torch_nor_tensorflow(names, loaded, tmp_path):
    """torch is installed where the tests run."""
    code = CHILD.format(names=names)
    out = subprocess.check_output(
        [sys.executable, "-c", code, str(tmp_path)], cwd=runs.ROOT, text=True
    )
    assert out.strip() == loaded
    assert bool(list(tmp_path.iterdir())) == bool(names)


class Fails:
    """A writer that fails where `at` says; "wait" is for ever."""

    package = "json"
    at = "write"

    def __init__(self, config, workdir, identity):
        self._now("open")

    def _now(self, where):
        if where == self.at:
            raise RuntimeError(f"no luck at {where}")

    def write(self, row):
        if row["step"] == 3:
            self._now("write")

    def flush(self):
        self._now("flush")

    def close(self):
        self._now("close")
        if self.at == "wait":
            time.sleep(60)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of a run without writers."""
    workdir = tmp_path_factory.mktemp("alone")
    train.run(runs.config(), workdir)
    return workdir


@pytest.mark.parametrize("at", ["open", "write", "flush", "close", "wait"])
def test_a_writer_that_fails_is_told_of_once_and_costs_the_run_nothing(
    at, alone, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(WRITERS, "wandb", type("At", (Fails,), {"at": at}))
    monkeypatch.setattr(record, "CLOSE_SECONDS", -0.5)
    train.run(runs.config(run__record=("wandb", "tensorboard")), tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: run.record: ") and "wandb" in line
    assert f"no luck at {at}" in line or at == "wait"
    runs.assert_same_run(tmp_path, alone)
    assert points(tmp_path) == points_of_rows(tmp_path), "the other one goes on"


def test_a_full_disk_ends_the_event_file_and_not_the_run(
    alone, tmp_path, monkeypatch, capsys
):
    from tensorboardX import record_writer

    full = functools.partial(open, "/dev/full", "wb")
    monkeypatch.setattr(record_writer, "open_file", lambda path: full())
    train.run(runs.config(run__record=("tensorboard",)), tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensorboard gets no more rows (OSError: " in line
    runs.assert_same_run(tmp_path, alone)


def test_a_writer_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    absent = type("Absent", (Fails,), {"package": "no_such_package"})
    monkeypatch.setitem(WRITERS, "trackio", absent)
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        runs.config(run__record="tensorboard,trackio")
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        runs.config(run__record="tensorbord")
    assert runs.config(run__record="()").run.record == ()


class Kept:
    """wandb and trackio as far as they are used: what a service keeps, by run."""

    def __init__(self):
        self.points: dict[str, list] = {}
        self.finished = 0

    def init(self, name, id=None, **settings):
        assert settings["resume"] == "allow" and settings["project"]
        log = self.points.setdefault(id or name, [])
        last = max((step for step, _ in log), default=-1)
        return types.SimpleNamespace(
            log=lambda points, step: log.append((step, dict(points))),
            finish=self._finish,
            starting_step=last + 1,
            _next_step=last + 1,
        )

    def _finish(self):
        self.finished += 1

    def module(self, name):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.init, module.Settings = self.init, dict
        return module


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_goes_on_in_the_same_run_from_the_step_it_has(
    name, tmp_path, monkeypatch
):
    service = Kept()
    monkeypatch.setitem(sys.modules, name, service.module(name))
    config = runs.config(run__record=(name,))
    train.run(config, tmp_path)
    (log,) = service.points.values()
    whole = list(log)
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5, 6]
    assert [step for step, points in whole if "validation/tokens" in points] == [3, 6]

    for sent in (2, 5, 6):  # of the steps that rows were written of
        del log[sent:]
        cut_back(tmp_path, step=4)
        train.run(config, tmp_path)
        assert len(service.points) == 1
        untimed = [
            [(k, v) for step in run for k, v in step[1].items() if "seconds" not in k]
            for run in (log, whole)
        ]
        assert untimed[0] == untimed[1] and len(log) == 6
    assert service.finished == 4
