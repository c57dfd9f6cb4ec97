"""Whole runs: they learn, their results have the stated form, their losses are pinned.

`python -m tests.test_training` writes tests/goldens.json anew, after a change of the
model, the data or the optimiser that is meant; read its diff.
"""

import json
import math
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from lm import config as configs
from lm import count, evaluate, optim, restore, schedules, sharding, train
from lm import model as models
from lm.data import TrainBatches, prepare
from lm.mixers import MIXERS
from lm.program import program
from lm.results import read_rows
from tests import trained
from tests.subjects import spec

GOLDENS = Path(__file__).parent / "goldens.json"
STEPS = 60
EVAL = {
    "protocol": str,
    "context": int,
    "cache": int,
    "tokens": int,
    "bytes": int,
    "nats": float,
    "nats_per_token": float,
    "bits_per_byte": float,
    "perplexity": float,
    "by_position": [[int, int, float]],
    "blocks": [[float, int]],
}
COUNT = {
    "params": int,
    "params_non_embedding": int,
    "flops_per_token": float,
    "train_flops": float,
    "state_bytes": int,
    "decode_flops_per_token": int,
    "state_by_context": [[int, int]],
}
SPEED = ("tokens_per_second", "seconds", "compile_seconds", "total_seconds")
RESULT = {
    "status": str,
    "step": int,
    "diverged_at": None,
    "config": dict,
    "fingerprint": str,
    "data": dict,
    "count": COUNT,
    "speed": dict.fromkeys(SPEED, float),
    "machine": dict,
    "machines": list,
    "validation": {"window": EVAL},
    "test": {"window": EVAL, "stream": EVAL},
}


def has_form(value, form, where: str = "result") -> None:
    """Keys and types, all the way down; every row of a list of rows."""
    if isinstance(form, dict):
        assert value.keys() == form.keys(), where
        for key in form:
            has_form(value[key], form[key], f"{where}.{key}")
    elif isinstance(form, list):
        (row_form,) = form
        assert value, where
        for row in value:
            assert [type(x) for x in row] == row_form, where
    else:
        assert type(value) is (form or type(None)), where


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    config = trained.settings(folder, run={"log_every": "7 steps"})
    assert train.run(config, folder / "run")["status"] == "done"
    return folder / "run"


@pytest.fixture
def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def test_a_run_learns_more_than_how_often_bytes_occur(workdir, result):
    config = configs.from_json((workdir / "config.json").read_text())
    text = np.asarray(prepare(config.data).tokens("train"))
    p_V = np.bincount(text) / len(text)
    unigram = -np.sum(p_V[p_V > 0] * np.log2(p_V[p_V > 0]))
    assert unigram > 4
    for split, protocol in (("validation", "window"), ("test", "stream")):
        assert result[split][protocol]["bits_per_byte"] < 0.6 * unigram
    losses = [row["loss"] for row in rows(workdir, "train")]
    assert losses[0] > unigram * math.log(2) > 1.5 * losses[-1]


def rows(workdir, kind: str) -> list[dict]:
    return [r for r in read_rows(workdir / "metrics.jsonl") if r["kind"] == kind]


def test_a_result_has_the_stated_form(workdir, result):
    has_form(result, RESULT)
    config = configs.from_json((workdir / "config.json").read_text())
    assert (result["status"], result["step"]) == ("done", STEPS)
    assert result["config"] == json.loads(json.dumps(config.to_dict()))
    assert result["fingerprint"] == configs.fingerprint(config)
    corpus = prepare(config.data)
    assert result["data"] == json.loads(json.dumps(corpus.manifest))
    assert result["machines"] == [[0, result["machine"]]]
    model = models.build(config, corpus.vocab_size)
    costs = count.summary(model, 16, STEPS * 64)
    assert result["count"] == json.loads(json.dumps(costs))
    speed = result["speed"]
    trained_tokens = speed["tokens_per_second"] * speed["seconds"]
    np.testing.assert_allclose(trained_tokens, STEPS * 64)
    assert speed["total_seconds"] > speed["seconds"] + speed["compile_seconds"]


def test_metrics_are_rows_of_the_stated_form(workdir, result):
    config = configs.from_json((workdir / "config.json").read_text())
    batches = TrainBatches(prepare(config.data), 16, 4, config.seed)
    numbers = {"loss", "grad_norm", "param_norm", "lr", "seconds"}
    found = rows(workdir, "train")
    assert [row["step"] for row in found] == [*range(7, STEPS, 7), STEPS]
    hyper = optim.hyper(config, STEPS, 3)
    for row in found:
        assert row.keys() == numbers | {"kind", "step", "tokens", "batch"}
        assert {type(row[name]) for name in numbers} == {float}
        assert row["tokens"] == 64 * row["step"]
        assert row["batch"] == zlib.crc32(batches(row["step"] - 1).tokens.tobytes())
        rate = schedules.learning_rate("cosine", row["step"] - 1, hyper)
        np.testing.assert_allclose(row["lr"], rate, 1e-5)
    validated = rows(workdir, "validation")
    assert [row["step"] for row in validated] == [30, 60]
    last = result["validation"]["window"]
    assert validated[-1]["bits_per_byte"] == last["bits_per_byte"]
    assert validated[-1]["nats_per_token"] == last["nats_per_token"]
    assert validated[0]["bits_per_byte"] > last["bits_per_byte"]


def test_a_finished_run_is_not_run_again(workdir, result, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.suffix}
    config = configs.from_json((workdir / "config.json").read_text())
    monkeypatch.setattr(train, "prepare", None)
    assert train.run(config, workdir) == result
    written = {workdir / "config.json"}
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.suffix}
    assert {p for p in after if after[p] != before.get(p)} <= written


def test_the_last_state_is_the_one_that_is_scored(workdir, result):
    config, model, params, corpus = restore.load(workdir)
    again = evaluate.window(model, params, corpus, "test", config)
    assert json.loads(json.dumps(again)) == result["test"]["window"]


def losses(name: str, folder: Path) -> list[float]:
    """Of the first 5 updates of a small model with one mixer."""
    mixer = {"pattern": (name,), "mixers": {name: spec(name)}}
    config = trained.settings(folder, model=mixer)
    corpus = prepare(config.data)
    batches = TrainBatches(corpus, 16, 4, config.seed)
    compiled = program(config, corpus.vocab_size)
    state, found = compiled.init(np.int32(config.seed)), []
    for step in range(5):
        batch = sharding.put(compiled.mesh, batches(step))
        state, metrics = compiled.train_step(state, batch, optim.hyper(config, 20, 2))
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.parametrize("name", MIXERS)
def test_losses_are_the_pinned_ones(name, tmp_path):
    pinned = json.loads(GOLDENS.read_text())
    assert name in pinned, f"{GOLDENS} lacks {name}: run python -m tests.test_training"
    np.testing.assert_allclose(losses(name, tmp_path), pinned[name], 1e-4)


def test_every_pin_is_of_a_registered_mixer():
    pinned = json.loads(GOLDENS.read_text())
    assert pinned.keys() == MIXERS.keys()
    assert len({tuple(row) for row in pinned.values()}) == len(pinned)


def write_goldens() -> None:
    """GOLDENS, one line a mixer."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: losses(name, Path(folder)) for name in MIXERS}
    lines = [
        f'  "{name}": {json.dumps([round(x, 6) for x in row])}'
        for name, row in rows.items()
    ]
    GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_goldens()
