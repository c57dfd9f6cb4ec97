"""What a run refuses, what it does not save, and how often it compiles."""

import functools
import json
import logging
import os
import shutil
import signal
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import evaluate, signals, train
from lm.checkpoint import Checkpoints
from lm.config import ConfigError
from lm.program import Program, batch_shape, program
from lm.signals import Preempted
from tests import runs


def test_a_workdir_refuses_another_config_and_other_data(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"to be or not to be. " * 400)
    source = dict(data__corpus="text", data__path=str(text))
    workdir = tmp_path / "run"
    train.run(runs.config(**source), workdir)
    with pytest.raises(ConfigError, match=r"optim\.b2 is 0\.95 there and 0\.5 now"):
        train.run(runs.config(**source, optim__b2=0.5), workdir)
    # Keys that do not change the result may change.
    done = train.run(runs.config(**source, run__keep=7, name="other"), workdir)
    assert done["status"] == "done"

    text.write_bytes(b"to be or not to be? " * 400)
    (workdir / "result.json").unlink()
    with pytest.raises(ConfigError, match="trained on other data"):
        train.run(runs.config(**source), workdir)
    with pytest.raises(ConfigError, match="has changed since"):
        evaluate.run(workdir, "test", ("window",))
    (workdir / "data.json").unlink()
    with pytest.raises(ConfigError, match="its data is"):
        train.run(runs.config(**source), workdir)


def test_one_evaluation_and_one_save_at_the_end(tmp_path, monkeypatch):
    done = Counter()

    def counted(owner, name, key):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            done[key(*args)] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Checkpoints, "save", lambda self, step, *_: ("save", step))
    counted(evaluate, "window_batches", lambda corpus, split, *_: ("window", split))
    counted(evaluate, "stream_batches", lambda corpus, split, *_: ("stream", split))
    result = train.run(runs.config(), tmp_path)
    assert done == {
        ("save", 2): 1,
        ("save", 4): 1,
        ("save", 6): 1,
        ("window", "validation"): 2,  # at step 3, and the final one at step 6
        ("window", "test"): 1,
        ("stream", "test"): 1,
    }
    rows = runs.rows(tmp_path)
    steps = {
        k: [r["step"] for r in rows if r["kind"] == k] for k in ("train", "validation")
    }
    assert steps == {"train": [1, 2, 3, 4, 5, 6], "validation": [3, 6]}
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {"3.txt", "6.txt"}
    assert rows[-1]["bits_per_byte"] == result["validation"]["window"]["bits_per_byte"]


@pytest.mark.parametrize("lr, last", [(1e9, 60), (1e38, 1)])
def test_a_run_that_diverges_ends_so_and_saves_nothing_of_it(lr, last, tmp_path):
    """At 1e38 the first loss is finite, and the parameters after it are not of use."""
    steps = dict(train__duration="60 steps", run__checkpoint_every="1 steps")
    config = runs.config(("attention",), optim__lr=lr, **steps)
    result = train.run(config, tmp_path)
    step = result["diverged_at"]
    assert (result["status"], result["step"]) == ("diverged", step) and step <= last
    rows = runs.train_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, step + 1))
    finite = [
        np.isfinite(row["loss"] + row["grad_norm"] + row["param_norm"]) for row in rows
    ]
    assert finite == [True] * (step - 1) + [False]
    for saved in Checkpoints(tmp_path / "checkpoints", 2).steps():
        assert saved < step
        assert all(np.isfinite(x).all() for x in runs.state(tmp_path, saved).values())
    assert train.run(config, tmp_path) == json.loads(json.dumps(result))


@pytest.fixture
def poison(monkeypatch):
    """Update 5 of this test's runs gives NaN; what is in the list is called then."""
    after = []
    original = Program.train_step.func

    def train_step(self):
        compiled = original(self)

        def step(state, batch, hyper):
            state, metrics = compiled(state, batch, hyper)
            if int(state.step) == 5:
                params = jax.tree.map(lambda x: x * jnp.nan, state.params)
                state = state._replace(params=params)
                metrics["loss"] = metrics["loss"] * jnp.nan
                for call in after:
                    call()
            return state, metrics

        return step

    monkeypatch.setattr(Program, "train_step", property(train_step))
    return after


def test_a_signal_behind_a_diverged_update_does_not_save_it(
    tmp_path, poison, monkeypatch
):
    """The update is dispatched and not yet looked at when the signal comes."""
    left = []
    monkeypatch.setattr(signals, "leave", left.append)
    poison.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted):
        train.run(runs.config(), tmp_path)
    assert left == [signals.EXIT_PREEMPTED]
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [2, 4]
    assert not (tmp_path / "result.json").exists()

    poison.clear()
    result = train.run(runs.config(), tmp_path)
    assert (result["status"], result["diverged_at"]) == ("diverged", 5)
    assert [row["step"] for row in runs.train_rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_grid_of_rates_and_seeds_compiles_its_step_once(tmp_path, caplog):
    # Of a size of its own: another test of this process may have compiled that of runs.
    config = functools.partial(runs.config, ("gru",), model__mlp_width=40)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for lr in (1e-3, 2e-3, 4e-3):
            train.run(config(optim__lr=lr), tmp_path / f"lr{lr}")
        changes = dict(seed=5, optim__weight_decay=0.3, train__duration="7 steps")
        train.run(config(**changes), tmp_path / "seed")
        changes = dict(optim__clip=0.5, optim__warmup="2 steps")
        train.run(config(**changes), tmp_path / "c")
    compiled = Counter(
        name
        for record in caplog.records
        for name in ("train_step", "initial_state", "forward", "prefill", "step")
        if f"Finished XLA compilation of jit({name})" in record.getMessage()
    )
    # initial_state: training, window, stream, generation; forward: both protocols.
    assert compiled == dict(train_step=1, initial_state=4, forward=2, prefill=1, step=1)
    losses = [
        runs.losses(tmp_path / name)[-1] for name in ("lr0.001", "lr0.002", "seed", "c")
    ]
    assert len(set(losses)) == 4


def test_the_first_state_takes_no_room_but_its_own():
    compiled = program(runs.config(("attention",), model__width=64), 10_000)
    memory = compiled.init.lower(jnp.int32(0)).compile().memory_analysis()
    kernel = 4 * 10_000 * 64
    assert memory.output_size_in_bytes > 3 * kernel > 60 * memory.temp_size_in_bytes


def test_micro_batches_are_the_fewest_that_fit_and_a_batch_must_divide():
    config = runs.config(train__batch_tokens=16 * 24)
    assert batch_shape(config, devices=1) == (24, 1)
    for micro_tokens, count in ((24 * 16, 1), (24 * 16 - 1, 2), (100, 4), (16, 24)):
        limited = runs.config(
            train__batch_tokens=16 * 24, train__micro_tokens=micro_tokens
        )
        assert batch_shape(limited, devices=1) == (24, count)
    assert batch_shape(limited, devices=8) == (24, 3)
    with pytest.raises(
        ConfigError, match="train.batch_tokens=384 is 24 rows .* 5 devices"
    ):
        batch_shape(config, devices=5)


def test_own_workdir_goes_before_init_from_and_that_before_scratch(
    tmp_path, monkeypatch
):
    saves, save = [], Checkpoints.save
    spy = lambda self, step, *rest: (saves.append(step), save(self, step, *rest))[1]
    monkeypatch.setattr(Checkpoints, "save", spy)
    first, tuned, again = (tmp_path / name for name in ("first", "tuned", "again"))
    train.run(runs.config(), first)
    assert saves == [2, 4, 6]  # the last one once, though it is due and final
    kinds = [(row["kind"], row["step"]) for row in runs.rows(first)]
    assert kinds.count(("validation", 6)) == 1

    # A rate that moves nothing shows what a run started from.
    source = dict(train__init_from=str(first))
    train.run(runs.config(optim__lr=1e-30, **source), tuned)
    want, got = runs.state(first), runs.state(tuned)
    for path in (path for path in want if path.startswith("params/")):
        np.testing.assert_allclose(got[path], want[path], 0, 1e-25)
    assert got["step"] == got["optimizer/count"] == 6
    assert runs.train_rows(tuned)[0]["batch"] == runs.train_rows(first)[0]["batch"]

    config = runs.config(**source)
    whole = train.run(config, again)["test"]
    (again / "result.json").unlink()
    shutil.rmtree(again / "checkpoints" / "6")
    shutil.rmtree(first)  # from here on there is only its own checkpoint 4
    assert train.run(config, again)["test"] == whole
