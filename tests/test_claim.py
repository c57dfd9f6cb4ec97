"""A workdir goes on with its own text, or with one named by its fingerprint."""

import json
from contextlib import closing

import pytest

from lm import claim, train
from lm.checkpoint import Checkpoints
from lm.config import ConfigError
from lm.data import TrainBatches, prepare
from tests import runs

WORDS = {
    "one": b"to be or not to be. " * 400,
    "other": b"to be or not to be? " * 400,
    "third": b"to be and not to be! " * 400,
}


def settings(tmp_path, name="text", **changes):
    keys = dict(data__corpus="text", data__path=str(tmp_path / f"{name}.txt"))
    return keys | {"data__cache": str(tmp_path / "cache")} | changes


def stopped(config, workdir, monkeypatch):
    """A run that a fault ends in its step 4; the checkpoint of step 2 is whole."""

    class Fault(Exception):
        pass

    whole = TrainBatches.__call__

    def batch(self, step):
        if step == 3:
            raise Fault
        return whole(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "__call__", batch)
        with pytest.raises(Fault):
            train.run(config, workdir)


@pytest.mark.parametrize("way", ["content", "key"])
def test_a_changed_text_goes_on_only_if_named(tmp_path, monkeypatch, way):
    (tmp_path / "text.txt").write_bytes(WORDS["one"])
    workdir = tmp_path / "run"
    stopped(runs.config(**settings(tmp_path)), workdir, monkeypatch)
    was = json.loads((workdir / "data.json").read_text())
    stored = lambda: json.loads((workdir / "config.json").read_text())["data"]
    kept = stored()

    name = {"content": "text", "key": "elsewhere"}[way]
    (tmp_path / f"{name}.txt").write_bytes(WORDS["other"])
    keys = settings(tmp_path, name)
    new = prepare(runs.config(**keys).data).fingerprint
    with pytest.raises(ConfigError, match="was trained on other data") as error:
        train.run(runs.config(**keys), workdir)
    flag = f"--config.run.accept_data={new[:12]}"
    assert str(error.value).endswith(flag)
    assert "sha256: " in str(error.value) and was["sha256"][:12] in str(error.value)
    assert ("data.path" in str(error.value)) == (way == "key")
    with pytest.raises(ConfigError, match="accept_data='0{12}' is not this text"):
        train.run(runs.config(**keys, run__accept_data="0" * 12), workdir)
    assert json.loads((workdir / "data.json").read_text()) == was
    assert stored() == kept

    accepted = runs.config(**keys, run__accept_data=new[:12])
    with closing(Checkpoints(workdir / "checkpoints", 2)) as saved:
        step = saved.latest()
    result = train.run(accepted, workdir)
    assert (result["status"], result["step"]) == ("done", 6)
    (entry,) = result["data"]["history"]
    assert (entry["until"], entry["manifest"]) == (step, was)
    manifest = json.loads((workdir / "data.json").read_text())
    assert manifest == result["data"] and manifest["fingerprint"] == new
    assert runs.losses(workdir).size == 6
    assert stored()["path"] == accepted.data.path

    # It goes on with this one, now without the flag, and with the first one no more.
    (workdir / "result.json").unlink()
    again = train.run(runs.config(**keys), workdir)
    assert again["data"] == result["data"]
    (workdir / "result.json").unlink()
    (tmp_path / f"{name}.txt").write_bytes(WORDS["third"])
    with pytest.raises(ConfigError, match="was trained on other data"):
        train.run(accepted, workdir)


def mixed(tmp_path, weight):
    parts = {
        name: {"corpus": "text", "path": str(tmp_path / f"{name}.txt"), "weight": 1.0}
        for name in ("text", "other")
    }
    parts["other"]["weight"] = weight
    keys = {"data.corpus": "mixture", "data.mixture": parts}
    return keys | {"data.cache": str(tmp_path / "cache")}


def tokenized(tmp_path, tokenizer):
    return settings(tmp_path, data__tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("key", "make", "was", "now"),
    [
        ("data.mixture.other.weight", mixed, 1.0, 3.0),
        ("data.tokenizer", tokenized, "bytes", "words"),
    ],
)
def test_another_mixture_or_tokenizer_is_refused(tmp_path, key, make, was, now):
    for name, words in {"text": "one", "other": "third"}.items():
        (tmp_path / f"{name}.txt").write_bytes(WORDS[words])
    workdir = tmp_path / "run"
    workdir.mkdir()

    def same_data(value, **changes):
        ours = runs.config(**make(tmp_path, value), **changes)
        claim.claim(ours, workdir)
        return claim.same_data(ours, prepare(ours.data), workdir, 2)

    first = same_data(was)
    with pytest.raises(ConfigError, match=rf"{key}: {was} -> {now}; .*accept") as error:
        same_data(now)
    flag = {"run__accept_data": str(error.value)[-12:]}
    files = [workdir / name for name in ("config.json", "data.json")]
    before = [file.read_bytes() for file in files]
    if key == "data.tokenizer":  # its embedding has another number of rows
        with pytest.raises(ConfigError, match="each of 256 tokens, and .* has 6:"):
            same_data(now, **flag)
        assert [file.read_bytes() for file in files] == before
        return
    second = same_data(now, **flag)
    assert [entry["manifest"] for entry in second["history"]] == [first]


def test_a_file_that_moved_needs_no_flag(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_bytes(WORDS["one"])
    workdir = tmp_path / "run"
    stopped(runs.config(**settings(tmp_path)), workdir, monkeypatch)
    (tmp_path / "text.txt").rename(tmp_path / "moved.txt")
    moved = runs.config(**settings(tmp_path, "moved"))
    assert train.run(moved, workdir)["status"] == "done"


def test_a_run_that_has_ended_is_not_reopened(tmp_path):
    for name in ("text", "other"):
        (tmp_path / f"{name}.txt").write_bytes(WORDS["one"])
    workdir = tmp_path / "run"
    workdir.mkdir()
    ours = runs.config(**settings(tmp_path))
    claim.claim(ours, workdir)
    corpus = prepare(ours.data)
    assert claim.same_data(ours, corpus, workdir, 0) == corpus.manifest
    (workdir / "result.json").write_text("{}")
    accepts = {"run__accept_data": corpus.fingerprint}
    claim.claim(runs.config(**settings(tmp_path), **accepts), workdir)
    with pytest.raises(ConfigError, match=r"another run: data\.path is"):
        claim.claim(runs.config(**settings(tmp_path, "other"), **accepts), workdir)
    (workdir / "result.json").unlink()
    longer = runs.config(**settings(tmp_path), **accepts, data__context=8)
    with pytest.raises(ConfigError, match=r"another run: data\.context is 16"):
        claim.claim(longer, workdir)


def test_a_checkpoint_of_neither_text_is_refused(tmp_path):
    meta = {"fingerprint": "c", "data": "d"}
    history = [{"config": "a", "manifest": {"fingerprint": "b"}}]
    check = lambda saved: claim.check_checkpoint(
        saved, meta, {"history": history}, tmp_path
    )
    check(meta)
    check({"fingerprint": "a", "data": "b"})
    for saved in ({"fingerprint": "a", "data": "d"}, {"fingerprint": "c", "data": "b"}):
        with pytest.raises(ConfigError, match="is of another run"):
            check(saved)
