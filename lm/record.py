"""Where a run's metrics go besides metrics.jsonl: TensorBoard, W&B, trackio.

metrics.jsonl is written first and is the truth. Every process of a run tells its
writers all rows that are there, so that what a killed or failed one left out is made up
for; what a service has already is not sent again.
"""

import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lm.results import read_json
from lm.workdir import write_json

CLOSE_SECONDS = 30  # a finished run waits so long for what a service has yet to take
LEAVE_SECONDS = 2  # and one that a signal stopped


class Writer(Protocol):
    """What run.record names; made and used in one thread, and may raise anything.

    Attributes:
      package: that `pip install` knows and Python imports.
    """

    package: str

    def __init__(self, config, workdir: Path, identity: dict): ...

    def write(self, row: dict) -> None:
        """Takes a row of metrics.jsonl; rows come in the order of the file."""

    def flush(self) -> None:
        """Called when there is no other row yet."""

    def close(self) -> None:
        """Called at the end of a run, not where a signal or an error cut it off."""


class TensorBoard:
    """An event file in workdir/tensorboard, which each process of a run makes anew.

    So no point is in it twice, also for readers that do not know of restarts. Its clock
    is that of training: the start of the first process plus the row's seconds.
    """

    package = "tensorboardX"

    def __init__(self, config, workdir: Path, identity: dict):
        with _hidden("torch"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._events = EventsWriter(str(folder / "events"))
        # A TensorBoard that shows the run drops what it read of the file before.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(self._event(session_log=start))
        self._began, self._seconds = identity["began"], 0.0

    def write(self, row: dict) -> None:
        self._seconds = row.get("seconds", self._seconds)
        points = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in points_of(row).items()
        ]
        self._events.write_event(
            self._event(
                wall_time=self._began + self._seconds,
                step=row["step"],
                summary=self._summary(value=points),
            )
        )

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class Service:
    """A run that a service keeps and knows again; its client sends on its own.

    The points of one step are sent together, once a later step comes: so the last step
    that a service has is whole, and `first` is the one after it.
    """

    def __init__(self, log: Callable, finish: Callable, first: int):
        self._log, self._finish, self._first = log, finish, first
        self._step, self._points = 0, {}

    def write(self, row: dict) -> None:
        if row["step"] != self._step:
            self._send()
        self._step = row["step"]
        self._points |= points_of(row)

    def _send(self) -> None:
        if self._points and self._step >= self._first:
            self._log(self._points, step=self._step)
        self._points = {}

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._send()
        self._finish()


class Wandb(Service):
    """A run of Weights & Biases; the environment (WANDB_PROJECT, ...) says where."""

    package = "wandb"

    def __init__(self, config, workdir: Path, identity: dict):
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lm"),
            name=str(workdir),
            id=identity["id"],
            resume="allow",
            reinit="create_new",  # never into the run of another workdir
            dir=str(workdir),
            config=config.to_dict(),
            settings=wandb.Settings(console="off", finish_timeout=CLOSE_SECONDS),
        )
        super().__init__(run.log, run.finish, run.starting_step)


class Trackio(Service):
    """A run of trackio; the environment (TRACKIO_SPACE_ID, ...) says where."""

    package = "trackio"

    def __init__(self, config, workdir: Path, identity: dict):
        import trackio

        run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "lm"),
            name=f"{workdir}-{identity['id']}",  # trackio knows a run by its name
            resume="allow",
            config=config.to_dict(),
            embed=False,
        )
        super().__init__(run.log, run.finish, run._next_step)


WRITERS: dict[str, type[Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


class Record:
    """The writers of a run, in a thread: training never waits for one, nor fails by it.

    Call it with each row of metrics.jsonl; use it in a `with` block. A writer that
    raises is reported on stderr once and gets no more rows.
    """

    def __init__(self, config, workdir: Path):
        self._names = tuple(dict.fromkeys(config.run.record))
        self._config, self._workdir = config, workdir
        self._rows: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Record":
        if self._names:
            self._thread.start()
        return self

    def __call__(self, row: dict) -> None:
        if self._names:
            self._rows.put(row)

    def __exit__(self, kind, error, traceback) -> None:
        if not self._names:
            return
        self._ended = kind is None
        self._rows.put(None)
        self._thread.join(CLOSE_SECONDS + 1 if self._ended else LEAVE_SECONDS)
        if self._ended and self._thread.is_alive():
            _warn(f"{', '.join(self._names)} did not take all rows in time")

    def _work(self) -> None:
        writers: dict[str, Writer | None] = dict.fromkeys(self._names)

        def each(call: Callable[[str], None]) -> None:
            for name in tuple(writers):
                try:
                    call(name)
                except Exception as error:  # a service's client may raise anything
                    del writers[name]
                    words = " ".join(f"{type(error).__name__}: {error}".split())
                    _warn(f"{name} gets no more rows ({words})")

        def make(name: str) -> None:
            identity = _identity(self._workdir)
            writers[name] = WRITERS[name](self._config, self._workdir, identity)

        rows = iter(self._rows.get, None)
        for number, row in enumerate(rows):
            if number == 0:
                each(make)
            each(lambda name, row=row: writers[name].write(row))
            if self._rows.empty():
                each(lambda name: writers[name].flush())
        if self._ended:
            each(lambda name: writers[name] and writers[name].close())
        else:
            each(lambda name: writers[name] and writers[name].flush())


def points_of(row: dict) -> dict[str, float]:
    """{"kind/name": value} of what a row measures, and of its tokens."""
    names = [name for name in row if name not in ("kind", "step", "batch")]
    return {f"{row['kind']}/{name}": row[name] for name in names}


def _identity(workdir: Path) -> dict:
    """{"id", "began"} of a run: by what services know it, time of its first row."""
    path = workdir / "record.json"
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12], "began": time.time()})
    return read_json(path)


def _warn(words: str) -> None:
    print(f"WARNING: run.record: {words}; metrics.jsonl has all", file=sys.stderr)


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """A block in which a package that is not imported yet cannot be.

    tensorboardX imports torch where it finds it, which takes seconds and a GB.
    """
    hide = package not in sys.modules
    if hide:
        sys.modules[package] = None
    try:
        yield
    finally:
        if hide:
            del sys.modules[package]
