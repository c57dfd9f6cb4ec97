"""Speed of training alone, and the line that a person sees."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Clock and display of one run; evaluation and compilation are not training.

    On a terminal one line is written over and over; elsewhere a plain line every tenth
    of the run. A validation always keeps its line.
    """

    def __init__(self, steps: int, batch_tokens: int, step: int, seconds: float):
        """Earlier processes did `step` updates in `seconds`."""
        self._steps, self._tokens = steps, batch_tokens
        self._last = self._told = step
        self._seconds = seconds
        self._since: float | None = None  # None: the clock stands

    def start(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Time in this block is not training."""
        self._seconds, self._since = self.seconds(), None
        try:
            yield
        finally:
            self.start()

    def seconds(self) -> float:
        """Of training, in this process and in earlier ones."""
        if self._since is None:
            return self._seconds
        return self._seconds + time.perf_counter() - self._since

    def speed(self) -> dict:
        """{"tokens_per_second", "seconds"} up to the last step that was shown."""
        seconds, tokens = self.seconds(), self._last * self._tokens
        return {"tokens_per_second": tokens / max(seconds, 1e-9), "seconds": seconds}

    def trained(self, step: int, loss: float) -> None:
        """After an update: its loss in nats a token."""
        self._last = step
        kept = step == self._steps
        if sys.stdout.isatty():
            self._line(f"loss {loss:.4f} nats", kept)
        elif kept or 10 * step // self._steps > 10 * self._told // self._steps:
            self._told = step
            self._line(f"loss {loss:.4f} nats", True)

    def validated(self, values: dict[str, float]) -> None:
        """After a validation, whose last value is its headline."""
        name, value = list(values.items())[-1]
        self._line(f"validation {value:.4f} {name.replace('_', ' ')}", True)

    def _line(self, what: str, kept: bool) -> None:
        rate = self.speed()["tokens_per_second"]
        left = (self._steps - self._last) * self._tokens / max(rate, 1e-9)
        line = (
            f"step {self._last}/{self._steps}  {what}  {rate:,.0f} tokens/s  "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        if sys.stdout.isatty():
            line = f"\r{line:<79}"
        print(line, end="\n" if kept else "", flush=True)
