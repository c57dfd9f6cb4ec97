"""The token file is made once, whole or not at all, whoever else is at it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import loader
from lm.data import prepare, shards, tokens, workers
from lm.data.growing import Growing
from tests.corpora import config, everything

ROOT = Path(__file__).parent.parent
CHILD = """
import os, sys, time
from pathlib import Path
from lm.data import prepare, tokens
from tests.corpora import config, everything
folder = Path(sys.argv[1])
data = config(folder, corpus="text", path=str(folder / "text.txt"), document="line")
"""


def child(folder, code):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_prepare_one_file_once(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"some line\n" * 100)
    code = """
write = tokens._write
def slow(*args):
    with open(folder / "made", "a") as file:
        file.write("x")
    time.sleep(1)
    return write(*args)
tokens._write = slow
(folder / f"ready-{os.getpid()}").touch()
while not (folder / "go").exists():
    time.sleep(0.02)
print(prepare(data).fingerprint, len(everything(prepare(data))[0]))
"""
    children = [child(tmp_path, code) for _ in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    (tmp_path / "go").touch()
    outputs = [each.communicate(timeout=60) for each in children]
    assert [each.returncode for each in children] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][0].split()[1] == "1000"
    assert (tmp_path / "made").read_text() == "x"


# What is killed, and how many of five shards are done by then.
MOMENTS = {
    "as a shard is read": ("Cleaner.__call__ = at(7, Cleaner.__call__)", 0),
    "before a shard is added": ("Growing.append = at(3, Growing.append)", 2),
    "as a shard is added": ("zlib.crc32 = at(5, zlib.crc32)", 2),
    "before documents.npy is whole": ("Growing.finish = at(1, Growing.finish)", 5),
    "before the manifest": ("Path.write_text = at(1, Path.write_text)", 5),
    "as files are synced": ("os.fsync = at(1, os.fsync)", 5),
    "before it has its name": ("Path.rename = at(1, Path.rename)", 5),
    "after it has its name": ("Path.unlink = at(1, Path.unlink)", 5),
}
KILL = """
import zlib
from lm.data import shards, workers
from lm.data.clean import Cleaner
from lm.data.growing import Growing

shards.SHARD = 100
workers._cpus = lambda: {processes}


def at(n, original):
    calls = iter(range(1, 1_000_000))
    def call(*args, **kwargs):
        if next(calls) == n:
            os.kill(os.getpid(), 9)
        return original(*args, **kwargs)
    return call


{moment}
prepare(data)
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_preparation_goes_on(tmp_path, monkeypatch, moment, processes):
    raw = b"some line\n" * 50
    (tmp_path / "text.txt").write_bytes(raw)
    code, done = MOMENTS[moment]
    killed = child(tmp_path, KILL.format(moment=code, processes=processes))
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode == -9, errors
    cache = tmp_path / "cache"
    rows = next(cache.glob("*/progress.jsonl")).read_text().splitlines()
    assert len(rows) == done
    append, added = Growing.append, []
    monkeypatch.setattr(shards, "SHARD", 100)
    monkeypatch.setattr(workers, "_cpus", lambda: 1)
    monkeypatch.setattr(Growing, "append", lambda *a: added.append(append(*a)))
    corpus = prepare(config(tmp_path, raw, document="line"))
    assert everything(corpus)[0] == raw
    assert corpus.manifest["documents"] == 50
    assert len(added) == 5 - done
    assert not list(cache.glob("*.part"))


def cut_bytes(path, n):
    path.write_bytes(path.read_bytes()[:n])


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda part: None, 3),
        (lambda part: flip(part / "tokens.bin", 150), 1),
        (lambda part: flip(part / "documents.npy", 128 + 8 * 25), 2),
        (lambda part: cut_bytes(part / "tokens.bin", 299), 2),
        (lambda part: cut_bytes(part / "progress.jsonl", -1), 2),
        (lambda part: (part / "tokens.bin").unlink(), 0),
        (lambda part: (part / "progress.jsonl").unlink(), 0),
    ],
)
def test_what_was_damaged_is_made_again(tmp_path, monkeypatch, damage, kept):
    monkeypatch.setattr(shards, "SHARD", 100)
    monkeypatch.setattr(workers, "_cpus", lambda: 1)
    raw = bytes(range(97, 106)) + b"\n"
    data = config(tmp_path, raw * 50, document="line")
    append, added = Growing.append, []

    def stopped(*args):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(append(*args))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Growing, "append", stopped)
        prepare(data)
    damage(next((tmp_path / "cache").glob("*.part")))
    added.clear()
    monkeypatch.setattr(Growing, "append", lambda *a: added.append(append(*a)))
    corpus = prepare(data)
    assert everything(corpus)[0] == raw * 50
    starts = np.load(next((tmp_path / "cache").glob("text-*/documents.npy")))
    assert starts.tolist() == list(range(0, 500, 10))
    assert len(added) == 5 - kept


def throw(error):
    raise error


def test_shards_of_another_text_are_forgotten(tmp_path, monkeypatch):
    """The text may have changed under the process that was killed."""
    monkeypatch.setattr(shards, "SHARD", 100)
    data = config(tmp_path, b"some line\n" * 50, document="line")
    clean, append, added = tokens.Cleaner.__call__, Growing.append, []

    def other(self, document):
        text = clean(self, document)
        return text.upper() if document.offset >= 250 else text

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Growing, "finish", lambda _: throw(KeyboardInterrupt))
        patch.setattr(tokens.Cleaner, "__call__", other)
        prepare(data)
    monkeypatch.setattr(Growing, "append", lambda *a: added.append(append(*a)))
    assert everything(prepare(data))[0] == b"some line\n" * 50
    assert len(added) == 3


def test_a_cut_token_file_is_made_again(tmp_path):
    raw = b"some line\n" * 100
    prepare(config(tmp_path, raw))
    cut = next((tmp_path / "cache").glob("text-*/tokens.bin"))
    cut.write_bytes(cut.read_bytes()[:-1])
    assert everything(prepare(config(tmp_path, raw)))[0] == raw


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    data = config(tmp_path, b"some line\n" * 100)

    def write(*args):
        (tmp_path / "text.txt").write_bytes(b"other\n" * 100)
        return whole(*args)

    whole = tokens._write
    monkeypatch.setattr(tokens, "_write", write)
    with pytest.raises(ValueError, match="text.txt' changed while it was read"):
        prepare(data)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_import_leaves_jax_out():
    code = "import sys, lm.data; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_loaders_benchmark_draws_from_a_file_without_a_text(tmp_path):
    loader.make(tmp_path, 10**6, loader.DOCUMENT)
    batch = loader.batches(tmp_path)(0)
    assert batch.tokens.shape == (loader.ROWS, loader.CONTEXT)
    assert batch.seq.reset.sum() > loader.ROWS  # documents are shorter than rows
