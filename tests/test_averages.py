"""Averages of parameters: what they are, who uses them, and that they are kept."""

import contextlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from lm import averages, evaluate, generate, optim, restore, train
from lm.checkpoint import Checkpoints, flatten
from lm.program import program
from tests import runs
from tests.subjects import close, same, values

D, START, N = 0.9, 3, 8


def settings(name: str):
    return SimpleNamespace(train=SimpleNamespace(average=name, ema_decay=D))


def weights(name: str, n: int) -> np.ndarray:
    """Of the parameters after updates 1 to n, by the definition of the mean."""
    if name == "ema":
        w_N = D ** (n - np.arange(1, n + 1.0))
    else:
        w_N = (np.arange(1, n + 1) > START) + 0.0 if n > START else np.eye(n)[-1]
    return w_N / w_N.sum()


@pytest.mark.parametrize("name", averages.WEIGHTS)
def test_the_average_is_the_weighted_mean_of_all_parameters_so_far(name):
    config, hyper = settings(name), SimpleNamespace(polyak_start=np.float32(START))
    history_NxD = values(N, 5)
    average = averages.start(config, {"kernel": values(5, seed=9)})
    for n in range(1, N + 1):
        new = {"kernel": history_NxD[n - 1]}
        average = averages.update(config, average, new, n - 1, hyper)
        want_D = weights(name, n) @ history_NxD[:n].astype(np.float64)
        np.testing.assert_allclose(average["kernel"], want_D, 1e-5, 1e-6)


KEYS = {
    "ema": dict(train__average="ema", train__ema_decay=0.7),
    "polyak": dict(train__average="polyak", train__polyak_start="2 steps"),
}


def restored(workdir, config, step: int):
    with contextlib.closing(Checkpoints(workdir / "checkpoints", 2)) as checkpoints:
        return checkpoints.restore(step, program(config, 256).abstract)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The workdir of the same training without an average."""
    workdir = tmp_path_factory.mktemp("plain")
    train.run(runs.config(), workdir)
    return workdir


@pytest.mark.parametrize("name", averages.WEIGHTS)
def test_the_average_is_what_is_evaluated_sampled_started_from_and_kept(
    name, plain, tmp_path
):
    first, second, broken = (tmp_path / x for x in ("first", "second", "broken"))
    config = runs.config(**KEYS[name])
    result = train.run(config, first)
    state = restored(first, config, 6)
    _, model, params, corpus = restore.load(first)
    same(params, state.average)
    assert np.abs(params["embedding"] - state.params["embedding"]).max() > 1e-4
    again = evaluate.run(first, "test", ("window",))["window"]
    assert again["nats"] == result["test"]["window"]["nats"]
    text = generate.sample(model, params, corpus, config)
    assert (first / "samples" / "6.txt").read_text() == text

    # The parameters are those of training without it, the figures are not.
    close(state.params, restored(plain, runs.config(), 6).params, 1e-6)
    for split in ("validation", "test"):
        other = runs.result(plain)[split]["window"]["nats"]
        assert abs(other - result[split]["window"]["nats"]) > 1

    train.run(runs.config(train__init_from=str(first), optim__lr=1e-30), second)
    close(restore.load(second)[2], state.average, 1e-7)

    shutil.copytree(first, broken)
    (broken / "result.json").unlink()
    shutil.rmtree(broken / "checkpoints" / "6")
    train.run(config, broken)  # from step 4
    runs.assert_same_run(broken, first)


def test_a_default_run_keeps_none():
    state = program(runs.config(), 256).abstract
    assert not [path for path in flatten(state) if path.startswith("average")]


def test_a_grid_of_starts_shares_one_program():
    one = runs.config(("lstm",), **KEYS["polyak"])
    later = KEYS["polyak"] | dict(train__polyak_start="4 steps")
    other = runs.config(("lstm",), **later)
    assert program(one, 256) is program(other, 256)
    assert optim.hyper(one, 6, 0, 0, 2).polyak_start == 2
