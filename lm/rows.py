"""metrics.jsonl as a run writes it: every row once, whatever ends the process."""

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax

from lm.config.durations import Durations
from lm.progress import Progress
from lm.results import read_rows
from lm.signals import shield
from lm.workdir import append_row, truncate_rows


class Diverged(Exception):
    """Update `step` gave a loss, gradient, parameters or state that is not finite."""

    def __init__(self, step: int):
        super().__init__(
            f"loss, gradient, parameters or carried state not finite at step {step}"
        )
        self.step = step


class Rows:
    """The rows of a run that goes on from `step`; rows of later steps are cut.

    Metrics are fetched one update late, so that the device never waits: that an update
    diverged is known when the next one is under way.
    """

    def __init__(
        self,
        path: Path,
        step: int,
        durations: Durations,
        batch_tokens: int,
        progress: Progress,
        record: Callable[[dict], None],
    ):
        """`record` is told each row: those that are there, and each that is written."""
        truncate_rows(path, step)
        rows = read_rows(path) if path.exists() else []
        self.validated = {row["step"] for row in rows if row["kind"] == "validation"}
        self._path, self._progress, self._record = path, progress, record
        self._durations, self._tokens = durations, batch_tokens
        self._pending: deque[tuple[int, int, dict]] = deque()
        for row in rows:
            record(row)

    def add(self, step: int, batch: int, metrics: dict) -> None:
        """Takes the hash of an update's batch and its metrics, still on the device."""
        self._pending.append((step, batch, metrics))

    def write(self, keep: int = 0) -> None:
        """Writes all but the newest `keep` updates' rows; raises Diverged.

        A row is logged every run.log_every, at the last step and where one diverged.
        """
        while len(self._pending) > keep:
            step, batch, metrics = self._pending[0]
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            finite = all(map(math.isfinite, values.values()))
            logged = step % self._durations.log_every == 0
            with shield():
                self._pending.popleft()
                if logged or step == self._durations.steps or not finite:
                    seconds = self._progress.seconds()
                    self._append("train", step, values, batch=batch, seconds=seconds)
            self._progress.trained(step, values["loss"])
            if not finite:
                raise Diverged(step)

    def validation(self, step: int, result: dict) -> None:
        """Writes the row of an EVAL, unless there is one of this step."""
        names = ("nats_per_token", "bits_per_byte", "accuracy")
        values = {name: result[name] for name in names if name in result}
        with shield():
            if step not in self.validated:
                self._append("validation", step, values)
                self.validated.add(step)
        self._progress.validated(values)

    def _append(self, kind: str, step: int, values: dict, **more) -> None:
        row = {"kind": kind, "step": step, "tokens": step * self._tokens}
        row |= values | more
        append_row(self._path, row)
        self._record(row)
