"""A text larger than memory should hold is tokenised, killed, gone on with, trained on.

`make slow` does it with 2 GB.
"""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lm.data import CORPORA, prepare
from lm.data.growing import PROGRESS
from tests.corpora import config

ROOT = Path(__file__).parent.parent
CHILD = """
import sys
from pathlib import Path
from lm.data import corpora, prepare, shards, workers
from lm.data.growing import Growing
from tests.corpora import config

folder, (unit, shard, pauses) = Path(sys.argv[1]), sys.argv[2:]
shards.SHARD = int(shard)
if shards.SHARD > 1_000_000:
    import lm.train  # a run has this in memory too
corpora.BLOCK = shards.BLOCK = min(shards.BLOCK, shards.SHARD // 8)
workers._cpus = lambda: 2
append = Growing.append


def told(*args):
    append(*args)
    print("added", flush=True)
    if pauses == "pauses":
        sys.stdin.readline()


Growing.append = told
data = config(folder, corpus="text", path=str(folder / "text.txt"), document=unit)
data.update(context=32, eval_bytes=1000)
prepare(data)
"""


class Memory(threading.Thread):
    """Watches a process and its children: `peak`, bytes, shared pages for each."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.peak = pid, 0
        self.start()

    def run(self) -> None:
        while size := sum(map(resident, family(self.pid))):
            self.peak = max(self.peak, size)
            time.sleep(0.02)


def family(pid: int) -> list[int]:
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        text = " ".join((thread / "children").read_text() for thread in threads)
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *map(int, text.split())]


def resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * resource.getpagesize()


def write_text(path: Path, size: int) -> None:
    """The King James text over and over, other letters in other places each time."""
    books = CORPORA["kjv"](config(path.parent)).documents()
    text_N = np.frombuffer(b"".join(book.text for book in books), np.uint8)
    text_N = text_N[text_N < 128]
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        while size:
            part_N = np.roll(text_N, rng.integers(len(text_N)))[:size].copy()
            place = rng.integers(len(part_N), size=len(part_N) // 50)
            part_N[place] = rng.integers(97, 123, len(place))
            file.write(part_N)
            size -= len(part_N)


def child(folder, unit, shard, pauses):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), unit, str(shard), pauses],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("size", "shard", "unit"),
    [
        (2_000_000, 100_000, "file"),
        pytest.param(2_000_000_000, 8 << 20, "file", marks=pytest.mark.slow),
        pytest.param(2_000_000_000, 8 << 20, "line", marks=pytest.mark.slow),
    ],
)
def test_a_large_text_survives_a_kill_and_trains(tmp_path, size, shard, unit):
    path = tmp_path / "text.txt"
    write_text(path, size)
    begun = time.monotonic()
    first = child(tmp_path, unit, shard, "pauses")
    memory = [Memory(first.pid)]
    count = int(0.4 * size / shard)
    for number in range(count):
        first.stdin.write("\n" if number else "")
        first.stdin.flush()
        assert first.stdout.readline() == "added\n"
    workers = family(first.pid)[1:]
    first.send_signal(signal.SIGKILL)
    first.wait()
    seconds = time.monotonic() - begun
    part = next((tmp_path / "cache").glob("*.part"))
    assert (part / PROGRESS).read_text().count("\n") == count
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.02)  # each ends with its pipe

    begun = time.monotonic()
    second = child(tmp_path, unit, shard, "")
    memory.append(Memory(second.pid))
    added = second.communicate()[0].count("added")
    seconds += time.monotonic() - begun
    assert second.returncode == 0
    folder = next((tmp_path / "cache").glob("text-*/"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert size / shard / 1.13 <= count + added <= size / shard + 1
    assert manifest["tokens"] + manifest["dropped_bytes"] == size

    peaks = [watch.peak / 1e6 for watch in memory]
    print(f"{unit}: {size / 1e6 / seconds:.0f} MB/s, {peaks[0]:.0f}, {peaks[1]:.0f} MB")
    assert max(peaks) < 1000
    train(tmp_path, path, unit)
    assert (
        prepare(
            config(tmp_path, corpus="text", path=str(path), document=unit)
        ).manifest["tokens"]
        == manifest["tokens"]
    )


def train(folder, path, unit) -> None:
    keys = {
        "data.corpus": "text",
        "data.path": path,
        "data.document": unit,
        "data.cache": folder / "cache",
        "data.context": 32,
        "data.eval_bytes": 1000,
        "eval.stream_chunk": 32,
        "model.width": 8,
        "model.mlp_width": 16,
        "model.depth": 1,
        "train.duration": "3 steps",
        "train.batch_tokens": 64,
        "run.sample_tokens": 1,
    }
    settings = [f"--config.{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "run.py", "train", f"--workdir={folder / 'run'}"]
    subprocess.run([*command, *settings], cwd=ROOT, check=True)
    result = json.loads((folder / "run" / "result.json").read_text())
    assert (result["status"], result["step"]) == ("done", 3)
