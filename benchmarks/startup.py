"""python -m benchmarks.startup [--out=FOLDER] [NAME ...]: seconds until a run learns.
NAME: compile, first, command.

compile: trace and compilation of the training step of 12 layers of width 256, with an
  empty cache and with a full one, and of 48 layers against 12.
first: from the start of `run.py train` until the loss of the first update is in
  metrics.jsonl, less two updates; programs and token file are cached.
command: what a person waits for who asks for help, or misspells a key.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, main
from lm.results import read_lines

COMMON = {"model.width": 256, "data.context": 256, "train.batch_tokens": 2048}
KINDS = {
    "attention": ("configs/gpt2.py", {"model.mlp_width": 1024}),
    "lstm": ("configs/lstm.py", {}),
    "mamba2": ("configs/mamba2.py", {}),
    "lstm and attention": ("configs/rnn_attention.py", {}),
}
CHILD = """
import json, sys
from lm import config as configs, memory, runtime
from lm.program import Program
path, changes = json.loads(sys.argv[1])
memory.collect_seldom()
runtime.keep_compiled()
program = Program(configs.resolve(configs.load(path, changes)), 256)
program.train_step
print(program.compile_seconds)
"""
UPDATES = 6
REPEATS = 5


def compiled(kind: str, layers: int, cache: Path) -> float:
    """Seconds in a new process whose programs are kept in `cache`."""
    path, changes = KINDS[kind]
    changes = COMMON | changes | {"model.depth": layers}
    command = [sys.executable, "-c", CHILD, json.dumps([path, changes])]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def compilation(cache: Path) -> Iterator[Row]:
    for kind in KINDS:
        cold = compiled(kind, 12, cache / kind)
        warm = statistics.median(compiled(kind, 12, cache / kind) for _ in range(3))
        deep = compiled(kind, 48, cache / kind)
        yield Row(f"compile 12 layers, {kind}: seconds", cold, most=8)
        yield Row(f"compile 12 layers, {kind}, cached: seconds", warm, most=1)
        values = {"48 layers s": deep, "12 layers s": cold}
        name = f"compile 48 layers over 12, {kind}"
        yield Row(name, deep / cold, most=1.3, values=values)


def train(flags: list[str], workdir: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "run.py", "train", f"--workdir={workdir}", *flags]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def first_loss(flags: list[str], workdir: Path, cache: Path) -> float:
    """Seconds until the first row of a run of one update, which then is killed."""
    begin = time.perf_counter()
    with train([*flags, "--config.train.duration=1 steps"], workdir, cache) as process:
        path = workdir / "metrics.jsonl"
        while not path.exists() or not path.stat().st_size:
            if process.poll() is not None:
                raise RuntimeError(f"run.py train ended with {process.returncode}")
            time.sleep(2e-3)
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


def first(cache: Path) -> Iterator[Row]:
    small = ["--config=configs/base.py"]
    changes = COMMON | KINDS["attention"][1] | {"model.depth": 12}
    large = [f"--config.{key}={value}" for key, value in changes.items()]
    models = {
        "the smallest model": small,
        "12 attention layers": ["--config=configs/gpt2.py", *large],
    }
    quick = ["log_every=1 steps", "sample_tokens=0", "checkpoint_every=100%"]
    common = [f"--config.run.{change}" for change in quick]
    common += ["--config.data.eval_bytes=4096", "--config.eval.every=100%"]
    for name, model in models.items():
        flags, workdir = [*model, *common], cache / name
        duration = f"--config.train.duration={UPDATES} steps"
        if train([*flags, duration], workdir / "whole", cache).wait():
            raise RuntimeError("run.py train failed")
        rows = read_lines(workdir / "whole" / "metrics.jsonl")
        at = [row["seconds"] for row in rows if row["kind"] == "train"]
        update = statistics.median(b - a for a, b in zip(at, at[1:], strict=False))
        found = [first_loss(flags, workdir / str(i), cache) for i in range(REPEATS)]
        seconds = statistics.median(found)
        values = {"first loss s": seconds, "update s": update}
        title = f"first loss less two updates, {name}: seconds"
        yield Row(title, seconds - 2 * update, most=3, values=values)


def commands(cache: Path) -> Iterator[Row]:
    for arguments, most in (
        (["--help"], 0.1),
        (["train", "--help"], 0.1),
        (["train", "--config.model.dpeth=3"], 1.0),
    ):
        times = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            command = [sys.executable, "run.py", *arguments]
            subprocess.run(command, check=False, capture_output=True)
            times.append(time.perf_counter() - begin)
        name = f"run.py {' '.join(arguments)}: seconds"
        yield Row(name, statistics.median(times), most=most)


CASES = {"compile": compilation, "first": first, "command": commands}


def measure(names: list[str]) -> Iterator[Row]:
    for name, rows in CASES.items():
        if not names or name in names:
            with tempfile.TemporaryDirectory() as cache:
                yield from rows(Path(cache))


if __name__ == "__main__":
    main(__doc__, measure)
