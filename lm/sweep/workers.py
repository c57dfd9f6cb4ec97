"""Worker processes of a comparison: spawned, pinned, one run at a time each.

The parent never starts a JAX backend, so it holds no device. On CPUs there is one
worker a core, pinned before jax is imported (XLA's own thread flags have no effect); on
GPUs and on a TPU of one host one a device, which sees that device alone; on a TPU slice
of several hosts one, runs in sequence. Imports no jax.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from lm import accelerators
from lm.signals import EXIT_PREEMPTED, leave

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 60.0  # what workers get to save in once a signal has come
# Most runs that train as one program (lm/population.py), by the kind of device: on a
# CPU they are slower than one after another (docs/performance.md), else unmeasured.
MEMBERS = {"cpu": 1}
OTHER_MEMBERS = 24


class Task(NamedTuple):
    """Work for a worker: `function` of lm.sweep.jobs, by name, called with `arguments`.

    group: tasks of one group share compiled programs, so a worker stays with a group.
    """

    id: str
    function: str
    arguments: tuple
    group: str = ""


class Outcome(NamedTuple):
    """status: "done", "failed" or "preempted"; value: what the function returned."""

    task: Task
    status: str
    value: Any
    reason: str

    @property
    def each(self) -> list:
        """Values of the runs of a task of one or more; empty where there is none."""
        if self.value is None:
            return []
        return self.value if isinstance(self.value, list) else [self.value]


class Slot(NamedTuple):
    """Where a worker runs: its CPUs and its environment."""

    cpus: frozenset[int]
    environment: dict[str, str]


def slots(
    count: int | None = None,
    each: int = 1,
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
) -> list[Slot]:
    """One slot a core, or `each` devices a slot; at most `count`.

    A TPU has one a chip only where the slice is known to be one host's and no one has
    laid it out already; else a single slot has all of it. Where devices do not make one
    slot of `each`, a slot has those there are, and the mesh says what is missing.
    """
    cpus = sorted(os.sched_getaffinity(0))
    cards = accelerators.usable(root, environment)
    if cards is None:
        count = count or len(cpus)
        return [Slot(frozenset([cpus[i % len(cpus)]]), {}) for i in range(count)]
    if cards.kind == "tpu" and (
        each > 1
        or "TPU_PROCESS_BOUNDS" in environment
        or accelerators.tpu_hosts(environment) != 1
    ):
        return [Slot(frozenset(cpus), {})]
    each = min(each, len(cards.names))
    groups = [
        cards.names[i : i + each] for i in range(0, len(cards.names) - each + 1, each)
    ][:count]
    share = max(len(cpus) // len(groups), 1)
    return [
        Slot(
            frozenset(cpus[i * share : (i + 1) * share] or cpus),
            accelerators.alone(cards, names, environment),
        )
        for i, names in enumerate(groups)
    ]


def members(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Most runs that a task should have, on the devices there are."""
    cards = accelerators.usable(root, environment)
    return MEMBERS.get(cards.kind if cards else "cpu", OTHER_MEMBERS)


def together(rows: list[dict], most: int, places: int) -> list[list[dict]]:
    """Runs in parts of up to `most` of one match and arm, each a program of its own.

    Smaller parts where a worker would have none.
    """
    most = min(most, -(-len(rows) // places))
    groups: dict = {}
    for row in rows:
        groups.setdefault((row["match"], row["arm"]), []).append(row)
    parts = []
    for group in groups.values():
        count = -(-len(group) // most)
        parts += [group[first::count] for first in range(count)]
    return parts


def run(tasks: Sequence[Task], places: Sequence[Slot], log: Path) -> Iterator[Outcome]:
    """Outcomes of all tasks as they end; a worker that dies costs its task alone.

    Args:
      log: folder of the workers' output.

    Raises:
      Preempted, from a signal: the workers have saved and left by then.
    """
    waiting, workers = list(tasks), []
    log.mkdir(parents=True, exist_ok=True)
    try:
        for number, slot in enumerate(places[: len(waiting)]):
            workers.append(_Worker(number, slot, log))
        while waiting or any(w.task for w in workers):
            for worker in workers:
                if worker.task is None and waiting:
                    worker.give(_next(waiting, worker.group, workers))
            ready = wait([w.pipe for w in workers if w.task])
            for worker in workers:
                if worker.pipe in ready:
                    yield worker.outcome()
    finally:
        if sys.exc_info()[0] is not None:
            for worker in workers:
                worker.process.terminate()  # a run saves itself and leaves
        for worker in workers:
            worker.stop()


def _next(waiting: list[Task], group: str, workers) -> Task:
    """A task of the worker's own group, else of the group that no one is at work on."""
    others = {w.group for w in workers if w.task}
    order = lambda task: (task.group != group, task.group in others)
    task = min(waiting, key=order)
    waiting.remove(task)
    return task


class _Worker:
    def __init__(self, number: int, slot: Slot, log: Path):
        self.slot, self.log = slot, log / f"worker-{number}.log"
        self.task: Task | None = None
        self.group = ""
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.slot, str(self.log)), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        if not self.process.is_alive():
            self._start()
        self.task, self.group = task, task.group
        self.pipe.send(task)

    def outcome(self) -> Outcome:
        task, self.task = self.task, None
        try:
            return Outcome(task, *self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
        self._start()
        if code == EXIT_PREEMPTED:
            return Outcome(task, "preempted", None, "a signal stopped its worker")
        killed = (
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        )
        return Outcome(task, "failed", None, f"worker {killed}; see {self.log}")

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(GRACE_SECONDS)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe, slot: Slot, log: str) -> None:
    """A worker's life; session, CPUs and environment are set before jax is imported."""
    os.setsid()  # Ctrl-C goes to the parent alone, which passes it on once
    if sys.platform == "linux":
        # A killed parent's workers save and leave rather than go on unseen.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setaffinity(0, slot.cpus)
    os.environ.update(slot.environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            leave(0)
        print(f"== {task.id}", flush=True)
        try:
            from lm.sweep import jobs

            pipe.send(("done", getattr(jobs, task.function)(*task.arguments), ""))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("failed", None, f"{type(error).__name__}: {error}"))
