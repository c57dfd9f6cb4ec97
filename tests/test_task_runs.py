"""Runs on tasks, from the config to the figures, and what the commands make of them."""

import json
import math
import signal

import pytest

from lm import cli, evaluate, restore, train
from lm import config as configs
from lm.checkpoint import Checkpoints
from tests import runs

PARITY = {
    "data.task.kind": "parity",
    "data.task.length": 12,
    "data.task.held_out": 61,
    "data.task.tests.x2.length": 24,
    "data.context": 12,
    "train.batch_tokens": 12 * 32,
}
LEARNS = {
    "model.pattern": ("lstm",),
    "model.width": 16,
    "model.depth": 1,
    "model.mlp_width": 16,
    "optim.lr": 2e-2,
    "train.duration": "300 steps",
    "eval.every": "50%",
}
FEW = {"model.width": 16, "model.mlp_width": 16, "model.depth": 1, "eval.every": "100%"}
FEW |= {"train.duration": "2 steps", "train.batch_tokens": 48, "data.task.held_out": 32}
FEW |= {"model.pattern": ("lstm",)}


def config(*changes):
    settings = {k: v for change in changes for k, v in change.items()}
    return configs.resolve(configs.load(str(runs.ROOT / "configs/base.py"), settings))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The workdir of an LSTM that learnt parity."""
    workdir = tmp_path_factory.mktemp("learned")
    train.run(config(PARITY, LEARNS), workdir)
    return workdir


def test_an_lstm_learns_parity_and_keeps_it_at_twice_the_length(learned):
    result = runs.result(learned)
    assert result["status"] == "done"
    assert result["data"]["task"]["same"]["length"] == 12
    assert result["data"]["task"]["x2"]["length"] == 24
    assert result["config"]["data"]["task"]["kind"] == "parity"
    assert result["validation"].keys() == result["test"].keys() == {"same", "x2"}
    same, beyond = (result["test"][name] for name in ("same", "x2"))
    assert min(same["accuracy"], beyond["accuracy"]) > 0.99
    assert (same["rows"], same["tokens"], same["size"]) == (61, 61 * 12, 12)
    assert (beyond["context"], beyond["tokens"]) == (24, 61 * 12)
    validated = [row for row in runs.rows(learned) if row["kind"] == "validation"]
    assert [row["step"] for row in validated] == [150, 300]
    assert validated[-1]["accuracy"] == result["validation"]["same"]["accuracy"]
    assert not (learned / "samples").exists()


def test_rows_that_pad_the_last_batch_count_nowhere(learned):
    _, model, params, data = restore.load(learned)
    found = {}
    for rows in (3, 61, 64):
        sized = config(PARITY, LEARNS, {"eval.rows": rows})
        for name in ("same", "x2"):
            found[rows, name] = evaluate.task(name, model, params, data, "test", sized)
    for name in ("same", "x2"):
        whole = found[61, name]
        for rows in (3, 64):
            other = found[rows, name]
            for figure in ("rows", "tokens", "accuracy", "exact"):
                assert other[figure] == whole[figure]
            one, two = (f["nats_per_token"] for f in (other, whole))
            assert one == pytest.approx(two, rel=1e-4)
            assert other["accuracy_by_position"] == whole["accuracy_by_position"]


def test_commands_know_a_run_on_a_task(learned, capsys, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    flag = f"--workdir={learned}"
    assert cli.main(["evaluate", flag, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == runs.result(learned)["test"]
    assert cli.main(["evaluate", flag, "--protocol=x2", "--split=validation"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["protocol", "tokens"]
    assert head.split()[2:] == ["nats_per_token", "accuracy", "exact"]
    assert row.split()[:2] == ["x2", "732"]
    assert cli.main(["evaluate", flag, "--protocol=window"]) == 2
    assert "valid are same, x2" in capsys.readouterr().err
    assert cli.main(["generate", flag]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "a run on 'task parity', which has no text to go on with" in said.err


def test_count_has_an_embedding_of_the_tasks_tokens(capsys, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    for vocabulary, kind in ((2, "parity"), (6, "word_problem")):
        sizes = ["--config.data.context=16", "--config.data.task.length=16"]
        assert cli.main(["count", f"--config.data.task.kind={kind}", *sizes]) == 0
        lines = capsys.readouterr().out.splitlines()
        whole, without = (int(line.split()[-1].replace(",", "")) for line in lines[1:3])
        assert whole - without == 64 * vocabulary


def test_learned_positions_make_longer_tests_unavailable(tmp_path):
    tests = {"data.task.tests.half.length": 6, "model.position": "learned"}
    result = train.run(config(PARITY, FEW, tests), tmp_path)
    assert result["test"]["x2"] == {
        "unavailable": "learned positions end at data.context"
    }
    for name in ("same", "half"):
        assert 0 <= result["test"][name]["accuracy"] <= 1


def test_repeats_are_read_from_a_text(tmp_path):
    caps = {"data.train_bytes": 6_000, "data.eval_bytes": 2_000, "data.context": 16}
    task = {"data.task.kind": "repeats", "data.task.segment": 8}
    result = train.run(config(task, caps, FEW), tmp_path)
    assert result["status"] == "done" and result["data"]["vocab_size"] == 256
    assert result["data"]["text"]["source"]
    same = result["test"]["same"]
    assert (same["tokens"], same["size"]) == (32 * 7, 8)
    assert same["nats_per_token"] < math.log(256) + 1


def test_a_run_on_a_task_that_was_killed_ends_as_the_whole_one(tmp_path, capsys):
    task = {"data.task.kind": "parity", "data.task.length": 16}
    task |= {"data.task.tests.x2.length": 32, "data.task.examples": 10}
    settings = runs.settings(("lstm",)) | {"model.depth": 1} | task
    killed, whole, cache = (tmp_path / name for name in ("killed", "whole", "cache"))
    with runs.stopped_at("stuck=5", settings, killed, cache) as process:
        saved = killed / "checkpoints" / "4"
        process.until("at stuck=5").waits_for(saved).kill()
    assert process.process.returncode == -signal.SIGKILL
    assert Checkpoints(killed / "checkpoints", 2).latest() == 4
    found = configs.resolve(configs.load(str(runs.ROOT / "configs/base.py"), settings))
    train.run(found, killed)
    assert "going on from step 4" in capsys.readouterr().out
    train.run(found, whole)
    assert [row["step"] for row in runs.train_rows(killed)] == [1, 2, 3, 4, 5, 6]
    runs.assert_same_run(killed, whole)
