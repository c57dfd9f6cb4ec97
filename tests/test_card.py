"""The run card: true of a whole run, of one that was stopped, and without git."""

import hashlib
import json
import os
import subprocess

import pytest

from lm import card, revision, signals, train
from lm.data import TrainBatches
from lm.revision import Revision, read
from lm.signals import Preempted
from tests import runs


def git(folder, *arguments) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.check_output(command, text=True).strip()


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with one file; nothing in it differs from its commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("a = 1\n")
    git(folder, "add", "a.py")
    git(folder, "commit", "-qm", "one")
    return folder


def test_the_revision_of_a_checkout_is_its_commit_and_a_patch_that_applies(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert read(checkout, "a.py") == Revision(head)
    (checkout / "a.py").write_text("a = 2\n")
    (checkout / "b.py").write_text("b = 1\n")
    found = read(checkout, "a.py")
    assert found.commit == head and found.untracked == ("b.py",)
    assert found.patch_hash == hashlib.sha256(found.patch).hexdigest()[:16]
    git(checkout, "checkout", "-q", "a.py")
    (checkout / "patch").write_bytes(found.patch)
    git(checkout, "apply", "patch")
    assert (checkout / "a.py").read_text() == "a = 2\n"


def test_where_there_is_no_commit_the_revision_says_why(
    checkout, tmp_path, monkeypatch
):
    (checkout / "b.py").write_text("b = 1\n")
    assert "did not match any file" in read(checkout, "b.py").why, "not of the checkout"
    assert "not a git repository" in read(tmp_path, "a.py").why
    monkeypatch.setattr(revision, "SECONDS", 1e-9)
    assert "took more than" in read(checkout, "a.py").why
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(checkout, "a.py") == Revision(None, "git is not installed")


@pytest.fixture
def code(monkeypatch):
    """What the next run takes for its code; a list to change."""
    codes = [Revision("c0ffee" * 6, None, b"a patch", ("new.py",))]
    monkeypatch.setattr(card, "revision", lambda: codes[0])
    return codes


def cards(workdir) -> tuple[dict, str]:
    text = (workdir / "card.md").read_text(encoding="utf-8")
    return json.loads((workdir / "card.json").read_text()), text


def test_a_run_that_was_stopped_and_went_on_has_both_processes_on_its_card(
    code, tmp_path, monkeypatch
):
    monkeypatch.setattr(signals, "leave", lambda code: None)
    original = TrainBatches.__call__

    def stopped(self, step):
        if step == 5:
            os.kill(os.getpid(), signals.SIGNALS[0])
        return original(self, step)

    config = runs.config()
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        patched.setattr(TrainBatches, "__call__", stopped)
        train.run(config, tmp_path)
    found, text = cards(tmp_path)
    assert found["status"] == "preempted (SIGTERM)" and found["figures"] == {}
    (first,) = found["starts"]
    assert (first["step"], first["end"]["step"]) == (0, 5)
    patch = tmp_path / first["code"]["patch"]
    assert patch.read_bytes() == b"a patch"
    assert first["code"]["patch_hash"] in patch.name

    code[0] = Revision(None, "git is not installed")
    result = train.run(config, tmp_path)
    found, text = cards(tmp_path)
    assert found["status"] == "done" and found["starts"][0] == first
    second = found["starts"][1]
    assert (second["step"], second["end"]["step"]) == (5, 6)
    assert second["machine"] == result["machine"]
    assert second["instructions"].split() and second["command"] and second["host"]
    assert found["data"]["fingerprint"] == result["data"]["fingerprint"]
    assert found["data"]["splits"] == dict(train=6_000, validation=2_000, test=2_000)
    bits = result["test"]["window"]["bits_per_byte"]
    assert found["figures"]["test bits per byte, window"] == bits
    assert found["figures"].keys() == card.FIGURES.keys() - {"test accuracy"}
    for words in ("done, step 6", f"| {bits:,.6g} |", "c0ffeec0ffee + patches/"):
        assert words in text
    assert "untracked new.py" in text and "unknown: git is not installed" in text
    train.run(config, tmp_path)  # says that it is done, and starts nothing
    assert cards(tmp_path)[0] == found


def test_a_large_patch_is_not_kept_and_a_card_that_cannot_be_written_costs_nothing(
    code, tmp_path, capsys
):
    code[0] = Revision("c0ffee", None, b"x" * (card.PATCH_BYTES + 1))
    one, other = tmp_path / "one", tmp_path / "other"
    train.run(runs.config(), one)
    (start,) = cards(one)[0]["starts"]
    assert start["code"]["patch"] is None and not (one / "patches").exists()
    assert start["code"]["patch_bytes"] == card.PATCH_BYTES + 1
    assert f"c0ffee + {start['code']['patch_hash']} (not kept)" in cards(one)[1]

    (other / "card.draft").mkdir(parents=True)
    train.run(runs.config(), other)
    assert capsys.readouterr().err.count("WARNING: the run card is not written") == 2
    runs.assert_same_run(one, other)


def test_a_run_that_fails_says_so(code, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(train.generate, "sample", broken)
    with pytest.raises(RuntimeError):
        train.run(runs.config(), tmp_path)
    found, _ = cards(tmp_path)
    assert found["status"] == "failed (RuntimeError: no such luck)"
    assert found["starts"][0]["end"]["step"] == 2, "of the newest checkpoint"
