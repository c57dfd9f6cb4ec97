"""Processes that encode shards side by side; they import no jax."""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from queue import SimpleQueue

from lm.data.shards import Encoded, Shard, encode
from lm.signals import SIGNALS

MOST = 6  # processes: with a run's own memory they stay below 1 GB
COMMAND = "from lm.data.workers import work; work()"


def encode_all(shards: Iterable[Shard], tokenizer) -> Iterator[tuple[Shard, Encoded]]:
    """Each shard, without its text, and its tokens, in order.

    A shard that is alone is encoded in this process; more of them in one process for
    each CPU that this one may use, but MOST. RuntimeError if one of these ends early.
    """
    shards = iter(shards)
    first = list(islice(shards, 2))
    shards = chain(first, shards)
    processes = min(_cpus(), MOST)
    if len(first) < 2 or processes == 1:
        for shard in shards:
            yield shard._replace(text=b""), encode(shard, tokenizer)
        return
    with (
        ThreadPoolExecutor(processes) as threads,
        Workers(tokenizer, processes) as workers,
    ):
        pending = deque()
        for shard in shards:
            known = shard._replace(text=b"")
            pending.append((known, threads.submit(workers.encode, shard)))
            if len(pending) > processes:
                known, result = pending.popleft()
                yield known, result.result()
        for known, result in pending:
            yield known, result.result()


class Workers:
    """Processes that encode, as many at once as there are threads that call.

    Not multiprocessing's: those run the caller's main module once more, with all that
    it imports, and outlive a parent that is killed. These end when their pipe does.
    """

    def __init__(self, tokenizer, processes: int):
        self._all = [_start() for _ in range(processes)]
        self._idle = SimpleQueue()
        for process in self._all:
            pickle.dump(tokenizer, process.stdin)
            self._idle.put(process)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        for process in self._all:
            process.kill()
            process.wait()

    def encode(self, shard: Shard) -> Encoded:
        process = self._idle.get()
        try:
            pickle.dump(shard, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            with suppress(OSError):
                process.stdin.close()
            code = process.wait()
            raise RuntimeError(
                f"a process that tokenises ended with code {code}"
                f"{' (killed; no memory left?)' if code == -signal.SIGKILL else ''}; "
                "the same command goes on after the shards that are done"
            ) from error
        finally:
            self._idle.put(process)


def _cpus() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def work() -> None:
    """Standard input: a tokenizer, then shards. Standard output: Encoded. Pickled."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides, and ends the pipe
    shards, results = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        tokenizer = pickle.load(shards)
        while True:
            encoded = encode(pickle.load(shards), tokenizer)
            pickle.dump(encoded, results, pickle.HIGHEST_PROTOCOL)
            del encoded
            results.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the parent is gone, perhaps amid a shard: nobody to tell
