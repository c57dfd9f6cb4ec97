"""Who can be told a run's metrics: an event file, W&B, trackio; see lm/record.py."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

CLOSE_SECONDS = 30  # a finished run waits so long for what a service has yet to take


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


def points_of(row: dict) -> dict[str, float]:
    """{"kind/name": value} of what a row measures, and of its tokens."""
    names = [name for name in row if name not in ("kind", "step", "batch")]
    return {f"{row['kind']}/{name}": row[name] for name in names}


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
