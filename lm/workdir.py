"""A workdir has one trainer at a time, and its metrics one row per step."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from lm.errors import ConfigError


@contextmanager
def workdir_lock(workdir: Path) -> Iterator[None]:
    """Hold a workdir for one trainer; ConfigError naming the holder if another has it.

    The system drops the lock when its process ends, however it ends.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "lock"
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = path.read_text().strip() or "another process"
        raise ConfigError(
            f"workdir {workdir} is in use by {holder}: stop that run or name another "
            "workdir"
        ) from None
    try:
        path.write_text(f"pid {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def truncate_rows(path: Path, step: int) -> None:
    """Drop the rows of a metrics.jsonl after `step` (-1: all) and a torn last line.

    The file is replaced at once or left as it is. ValueError for any other bad line.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            row_step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} is no row with a step "
                f"({error!r}); remove the line"
            ) from error
        if row_step <= step:
            kept.append(line)
    draft = path.with_suffix(".draft")
    draft.write_bytes(b"".join(kept))
    draft.replace(path)


def append_row(path: Path, row: dict) -> None:
    """Append one line of JSON, whole and on disk's side of a crash of this process."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def write_json(path: Path, value) -> None:
    """Replace a JSON file at once."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=1))
    draft.replace(path)
