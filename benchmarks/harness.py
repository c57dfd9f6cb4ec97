"""How every benchmark here measures: alternating medians, ratios first, limits beside.

Programs of one comparison run in turns, each timed call after an untimed one of its
own: a call after another's finds cold caches and pages.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax
import numpy as np

from lm import memory, optim, sequence, sharding
from lm.data import Batch
from lm.limits import matmul_peak, read_bandwidth
from lm.program import Program, program
from lm.runtime import machine
from lm.sequence import Sequence

REPEATS = 7


@dataclass
class Row:
    """One figure against what it is measured by.

    Attributes:
      name: the work, shapes included.
      ratio: the figure itself, larger is better unless `most` is its bar.
      least, most: the bar; None: there is none, the row only informs.
      stretch: what we are after beyond the bar.
      values: what the ratio is made of, by name with unit: {"ours ms": 12.0}.
    """

    name: str
    ratio: float
    least: float | None = None
    most: float | None = None
    stretch: float | None = None
    values: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.least is None and self.most is None:
            return ""
        low = self.least is not None and self.ratio < self.least
        high = self.most is not None and self.ratio > self.most
        return "falls short" if low or high else "pass"


def medians(
    programs: dict[str, "Callable | Apart"], repeats: int = REPEATS, calls: int = 1
) -> dict[str, float]:
    """Median milliseconds a call of each program, which returns when its work is done.

    Args:
      calls: of a program in a row that one time is over, for short ones.
    """
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            if isinstance(run, Apart):
                times[name].append(run.milliseconds(calls))
            else:
                times[name].append(_milliseconds(run, calls))
    return {name: statistics.median(found) for name, found in times.items()}


class Apart:
    """A program in a process of its own, for `medians`; idle but when it is timed.

    For peers whose threads or memory would meet ours in one process. Both keep what is
    freed: ours by mimalloc, torch's by glibc.

    Args:
      make: "module:function" that returns the program, a callable; arguments: its own.
    """

    def __init__(self, make: str, *arguments):
        command = [sys.executable, "-c", CHILD, make, json.dumps(arguments)]
        environment = glibc() | {memory.TUNABLES: KEPT}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._child = subprocess.Popen(command, env=environment, **pipes)

    def milliseconds(self, calls: int) -> float:
        """Of a call, after an untimed one."""
        self._child.stdin.write(f"{calls}\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._child.wait()}")
        return float(line)

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *error) -> None:
        self._child.stdin.close()
        self._child.wait()


def glibc() -> dict[str, str]:
    """The environment of a process with glibc's own allocator."""
    return {k: v for k, v in os.environ.items() if k != memory.PRELOAD}


KEPT = (
    "glibc.malloc.trim_threshold=100000000000:glibc.malloc.mmap_max=0:"
    "glibc.malloc.arena_max=1"
)
CHILD = "import sys; from benchmarks import harness; harness.serve(*sys.argv[1:])"


def serve(make: str, arguments: str) -> None:
    """The child of `Apart`: makes a program, and times it whenever it is asked to."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, function = make.split(":")
    program = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    for line in sys.stdin:
        print(_milliseconds(program, int(line)), file=answers, flush=True)


def _milliseconds(program: Callable, calls: int) -> float:
    program()
    start = time.perf_counter()
    for _ in range(calls):
        program()
    return 1e3 * (time.perf_counter() - start) / calls


def blocked(function: Callable, *arguments) -> Callable:
    """A jax call that returns when its results are there."""
    return lambda: jax.block_until_ready(function(*arguments))


def train_step(config, vocab_size: int) -> tuple[Callable[[], float], Program]:
    """(a training step on a batch that lies in memory, which returns its loss; whose).

    The first makes the state before; all is compiled.

    Args:
      config: resolved; its batch of data.context tokens a row.
    """
    compiled = program(config, vocab_size)
    context = config.data.context
    rows = config.train.batch_tokens // context
    ids = np.random.default_rng(0).integers(0, vocab_size, (rows, context + 1))
    ids, weights = ids.astype(np.int32), np.ones((rows, context), np.float32)
    seq = Sequence(*sequence.full(rows, context)[:4])
    batch = sharding.put(compiled.mesh, Batch(ids[:, :-1], ids[:, 1:], weights, seq))
    step, hyper = compiled.train_step, optim.hyper(config, 1000, 10)
    init, state = compiled.init.lower(np.int32(0)).compile(), None

    def run() -> float:
        nonlocal state
        state, metrics = step(state or init(np.int32(0)), batch, hyper)
        return float(metrics["loss"])

    return run, compiled


def peak_memory(program: Callable) -> int:
    """Most bytes that this process came to hold in `program`, above those before it.

    Call it in a process of its own: memory that an earlier program left free is not
    counted again. Linux only.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    program()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def line(row: Row) -> str:
    bars = {"at least": row.least, "at most": row.most, "stretch": row.stretch}
    bar = ", ".join(f"{k} {v:g}" for k, v in bars.items() if v is not None)
    values = ", ".join(f"{name} {_short(value)}" for name, value in row.values.items())
    cells = [row.name, f"{row.ratio:.2f}", bar, row.verdict, values]
    return "| " + " | ".join(cells) + " |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def here() -> dict:
    """The machine's record with its limits, measured in this process."""
    limits = {
        "matmul_gflops": matmul_peak() / 1e9,
        "read_gb_per_s": read_bandwidth() / 1e9,
    }
    return machine() | limits


def markdown(title: str, where: dict, rows: list[Row]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in where["packages"].items())
    device = f"{where['cpus']} cores of {where['device']}"
    if where["platform"] != "cpu":
        device = f"{where['devices']} {where['device']}"
    limits = (
        f"float32 products {where['matmul_gflops']:.0f} GFLOP/s, "
        f"reads {where['read_gb_per_s']:.0f} GB/s"
    )
    lines = "\n".join(map(line, rows))
    return f"""{title}

{device}: {limits}; {packages}.

| work | ratio | bar | | measured |
|---|---|---|---|---|
{lines}
"""


def main(title: str, measure: Callable[[list[str]], Iterable[Row]]) -> None:
    """The command of a benchmark module: [--out=FOLDER] [NAME ...].

    Prints each row as it comes; writes FOLDER/MODULE.json and FOLDER/MODULE.md.

    Args:
      title: the module's docstring.
      measure: names of cases (none: all) -> rows, best as a generator.
    """
    import __main__

    memory.keep_pages()  # for jax and for its peers
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--out", type=Path, help="folder of NAME.json and NAME.md")
    parser.add_argument("names", nargs="*", help="cases; default: all")
    flags = parser.parse_args()
    rows = []
    for row in measure(flags.names):
        print(line(row), flush=True)
        rows.append(row)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        name = Path(__main__.__file__).stem
        found = [asdict(row) | {"verdict": row.verdict} for row in rows]
        where = here()
        result = {"machine": where, "rows": found}
        (flags.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        (flags.out / f"{name}.md").write_text(markdown(title.strip(), where, rows))
