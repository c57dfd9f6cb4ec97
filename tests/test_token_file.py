"""The token file is made once, whole or not at all, whoever else is at it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.data import prepare, tokens
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


@pytest.mark.parametrize("moment", ["tokens.clean", "tokens.os.fsync"])
def test_a_killed_preparation_leaves_nothing_whole(tmp_path, moment):
    (tmp_path / "text.txt").write_bytes(b"some line\n" * 100)
    killed = child(
        tmp_path, f"{moment} = lambda *_: os.kill(os.getpid(), 9)\nprepare(data)"
    )
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    cache = tmp_path / "cache"
    assert [path.name for path in cache.glob("*.tmp-*")]
    assert not list(cache.glob("*/manifest.json"))
    path = str(tmp_path / "text.txt")
    corpus = prepare(config(tmp_path, corpus="text", path=path, document="line"))
    assert everything(corpus)[0] == b"some line\n" * 100
    assert not list(cache.glob("*.tmp-*"))


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
