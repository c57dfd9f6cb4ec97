"""Where a run's metrics go besides metrics.jsonl: run.record names them.

metrics.jsonl is written first and is the truth. Every process of a run tells its
writers all rows that are there, so that what a killed or failed one left out is made up
for; what a service has already is not sent again.
"""

import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from lm.results import read_json
from lm.workdir import write_json
from lm.writers import CLOSE_SECONDS, WRITERS, Writer

LEAVE_SECONDS = 2  # for the last rows of a run that a signal stopped


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


def _identity(workdir: Path) -> dict:
    """{"id", "began"} of a run: by what services know it, time of its first row."""
    path = workdir / "record.json"
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12], "began": time.time()})
    return read_json(path)


def _warn(words: str) -> None:
    print(f"WARNING: run.record: {words}; metrics.jsonl has all", file=sys.stderr)
