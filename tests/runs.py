"""Tiny training runs for tests: their configs, processes, and what they leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from lm import config as configs
from lm.checkpoint import Checkpoints, flatten
from lm.program import program
from lm.results import read_lines

ROOT = Path(__file__).parent.parent
TINY = {
    "model.width": 16,
    "model.mlp_width": 32,
    "data.context": 16,
    "data.train_bytes": 6_000,
    "data.eval_bytes": 2_000,
    "train.batch_tokens": 64,
    "train.duration": "6 steps",
    "eval.every": "3 steps",
    "eval.rows": 4,
    "eval.stream_chunk": 8,
    "run.checkpoint_every": "2 steps",
    "run.log_every": "1 steps",
    "run.sample_tokens": 8,
}
PLACES = ("word", "embedding", "residual", "output")
DROPOUT = {f"model.{place}_dropout": 0.1 for place in PLACES}
ATTENTION_DROPOUT = {"model.mixers.attention.dropout": 0.1}


def settings(pattern: tuple[str, ...], **changes) -> dict:
    """{key: value} of a tiny run with dropout; `__` in a name stands for a dot."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    wet = DROPOUT | (ATTENTION_DROPOUT if "attention" in pattern else {})
    depth = {"model.pattern": pattern, "model.depth": max(len(pattern), 2)}
    return TINY | wet | depth | dotted


def config(pattern: tuple[str, ...] = ("lstm",), **changes):
    """The resolved config of a tiny run."""
    return configs.resolve(
        configs.load(str(ROOT / "configs/base.py"), settings(pattern, **changes))
    )


def flags(settings: dict, workdir: Path) -> list[str]:
    """The arguments of `run.py train`."""
    text = lambda v: ",".join(v) if isinstance(v, tuple) else str(v)
    overrides = [f"--config.{key}={text(value)}" for key, value in settings.items()]
    return ["train", f"--workdir={workdir}", *overrides]


class Process:
    """A training process of its own. Close it, or use it in a `with` block."""

    def __init__(self, *arguments: str, cache: Path, devices: int = 1):
        """`arguments` of python; `cache`: of compiled programs and of token files."""
        environment = os.environ | {
            "XDG_CACHE_HOME": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def until(self, line: str) -> "Process":
        """Reads on to a line that it prints."""
        for found in self.process.stdout:
            if found.strip() == line:
                return self
        raise AssertionError(f"no {line!r}: {self.process.stderr.read()}")

    def waits_for(self, path: Path) -> "Process":
        """Looks every millisecond until a path is there or the process has ended."""
        while not path.exists() and self.process.poll() is None:
            time.sleep(1e-3)
        return self

    def kill(self, number: int = signal.SIGKILL) -> float:
        """Sends a signal; seconds until the process has ended."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.out, self.err = self.process.communicate()
        return time.monotonic() - begin

    def end(self, code: int = 0) -> "Process":
        """Waits; asserts the exit code."""
        self.out, self.err = self.process.communicate()
        assert self.process.returncode == code, self.out + self.err
        return self


def train(settings: dict, workdir: Path, cache: Path, devices: int = 1) -> Process:
    """`python run.py train` under way."""
    return Process("run.py", *flags(settings, workdir), cache=cache, devices=devices)


def stopped_at(point: str, settings: dict, workdir: Path, cache: Path) -> Process:
    """The same, which tells when it comes to a point of tests/pause.py."""
    return Process("-m", "tests.pause", point, *flags(settings, workdir), cache=cache)


def state(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """{path: values} of parameters, moments and step of a good checkpoint."""
    stored = configs.from_json((workdir / "config.json").read_text())
    data = json.loads((workdir / "data.json").read_text())
    abstract = program(stored, data["vocab_size"]).abstract
    with contextlib.closing(Checkpoints(workdir / "checkpoints", 2)) as checkpoints:
        step = checkpoints.latest() if step is None else step
        restored, _ = checkpoints.restore(step, abstract)
    return jax.device_get(flatten(restored))


def rows(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl in the order of the file, without timing."""
    found = read_lines(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def train_rows(workdir: Path) -> list[dict]:
    return [row for row in rows(workdir) if row["kind"] == "train"]


def losses(workdir: Path) -> np.ndarray:
    return np.array([row["loss"] for row in train_rows(workdir)])


def result(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def assert_same_state(one: dict, other: dict) -> None:
    """Bitwise, dtypes included."""
    assert one.keys() == other.keys()
    for path in one:
        assert one[path].dtype == other[path].dtype, path
        assert one[path].tobytes() == other[path].tobytes(), path


def assert_same_run(one: Path, other: Path) -> None:
    """Two workdirs agree bitwise in all but timing: state, rows, figures, samples."""
    assert_same_state(state(one), state(other))
    assert rows(one) == rows(other)
    for part in ("status", "step", "fingerprint", "data", "validation", "test"):
        assert result(one)[part] == result(other)[part], part
    samples = [  # a task has none
        {path.name: path.read_bytes() for path in workdir.glob("samples/*")}
        for workdir in (one, other)
    ]
    assert samples[0] == samples[1]
