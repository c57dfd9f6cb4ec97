"""A run that was killed or preempted, wherever, ends as if it had not been: bitwise."""

import signal

import jax
import jax.numpy as jnp
import pytest

from lm import optim, sharding
from lm.checkpoint import WRITING, Checkpoints, flatten
from lm.data import TrainBatches, prepare
from lm.mixers import MIXERS
from lm.optimizers import OPTIMIZERS
from lm.program import program
from lm.signals import EXIT_PREEMPTED
from tests import runs

CARRY = {"train.state": "carry"}
KINDS = {
    "nonlinear": runs.settings(("lstm",)),
    "diagonal": runs.settings(("rglru",)),
    "cache": runs.settings(("attention",)),
    "hybrid": runs.settings(("lstm", "attention")),
    "carried": runs.settings(("lstm",)) | CARRY,
    "carried matrix": runs.settings(("gated_deltanet",)) | CARRY,
    "carried cache": runs.settings(("attention",)) | CARRY,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of token files and compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unbroken(cache, tmp_path_factory):
    """{kind: workdir} of runs that nothing disturbed, made by one process."""
    folder = tmp_path_factory.mktemp("unbroken")
    commands = [runs.flags(settings, folder / kind) for kind, settings in KINDS.items()]
    code = f"from lm import cli\nfor c in {commands!r}: assert cli.main(c) == 0"
    with runs.Process("-c", code, cache=cache) as process:
        process.end()
    return {kind: folder / kind for kind in KINDS}


def killed_in_a_save(settings, workdir, cache, step):
    """A folder of a run that was killed while it wrote `step`; several are tried."""
    for attempt in range(1, 6):
        folder = workdir / f"attempt{attempt}"
        writing = folder / "checkpoints" / f"{step}{WRITING}"
        with runs.train(settings, folder, cache) as process:
            process.waits_for(writing).kill()
        if writing.exists() and not (folder / "checkpoints" / str(step)).exists():
            return folder
    raise AssertionError("no kill hit a save")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_a_save_and_between_saves_ends_bitwise_equal(
    kind, unbroken, cache, tmp_path
):
    settings = KINDS[kind]
    workdir = killed_in_a_save(settings, tmp_path, cache, step=4)
    assert Checkpoints(workdir / "checkpoints", 2).steps() == [2]

    # Goes on from 2, saves 4, is killed before the last update.
    with runs.stopped_at("stuck=5", settings, workdir, cache) as process:
        saved = workdir / "checkpoints" / "4"
        process.until("at stuck=5").waits_for(saved).kill()
    assert process.process.returncode == -signal.SIGKILL
    assert not list((workdir / "checkpoints").glob(f"*{WRITING}*"))

    with runs.train(settings, workdir, cache) as process:
        assert "going on from step 4" in process.end().out
    assert [row["step"] for row in runs.train_rows(workdir)] == [1, 2, 3, 4, 5, 6]
    assert len({row["batch"] for row in runs.train_rows(workdir)}) == 6
    runs.assert_same_run(workdir, unbroken[kind])


def three(config, state=None):
    """(TrainState, losses) after three updates, from step 0 or a state."""
    corpus = prepare(config.data)
    batches = TrainBatches(corpus, config.data.context, 4, config.seed)
    hyper = optim.hyper(config, steps=6, warmup=1)
    compiled = program(config, corpus.vocab_size)
    state = compiled.init(jnp.int32(config.seed)) if state is None else state
    losses = []
    for _ in range(3):
        batch = sharding.put(compiled.mesh, batches(int(state.step)))
        state, metrics = compiled.train_step(state, batch, hyper)
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize(
    "mixer", sorted(MIXERS.keys() - {"lstm", "rglru", "attention"})
)
def test_every_other_mixer_goes_on_bitwise_from_a_fresh_restore(mixer, tmp_path):
    config = runs.config((mixer,))
    state, _ = three(config)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.ensure(3, state, {})
    abstract = program(config, vocab_size=256).abstract
    _, restored, _ = checkpoints.restore_latest(abstract)
    checkpoints.close()
    one, other = (three(config, s) for s in (state, restored))
    assert int(one[0].step) == 6 and one[1] == other[1]
    runs.assert_same_state(*(jax.device_get(flatten(s)) for s, _ in (one, other)))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"adamw"}))
def test_every_optimizer_goes_on_bitwise_after_a_kill(name, cache, tmp_path):
    schedule = "constant" if name == "schedule_free" else "cosine"
    changes = dict(optim__name=name, optim__schedule=schedule)
    settings = runs.settings(("lstm",), **changes)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with runs.stopped_at("stuck=5", settings, killed, cache) as process:
        saved = killed / "checkpoints" / "4"
        process.until("at stuck=5").waits_for(saved).kill()
    commands = [runs.flags(settings, workdir) for workdir in (killed, whole)]
    code = f"from lm import cli\nfor c in {commands!r}: assert cli.main(c) == 0"
    with runs.Process("-c", code, cache=cache) as process:
        process.end()
    assert [row["step"] for row in runs.train_rows(killed)] == [1, 2, 3, 4, 5, 6]
    runs.assert_same_run(killed, whole)


STEPS = 300
STRIKES = [  # (point, signal, steps that a checkpoint may then be of)
    ("data", signal.SIGUSR1, range(0)),
    ("compile", signal.SIGTERM, range(1)),
    ("step=20", signal.SIGTERM, range(20, STEPS)),
    ("validation", signal.SIGTERM, range(100, STEPS)),
    ("sample", signal.SIGINT, range(100, STEPS)),
    ("evaluation", signal.SIGTERM, range(STEPS, STEPS + 1)),
]


def test_a_signal_in_any_phase_saves_leaves_within_ten_seconds_and_costs_nothing(
    tmp_path,
):
    """One run, struck once in each phase by turns, and the same run left alone.

    Its cache is cold, so that the compilation takes a while.
    """
    cache = tmp_path / "cache"
    settings = runs.settings(
        ("rglru",),
        train__duration=f"{STEPS} steps",
        eval__every="100 steps",
        run__checkpoint_every="150 steps",
    )
    struck, alone = tmp_path / "struck", tmp_path / "alone"
    for point, number, steps in STRIKES:
        with runs.stopped_at(point, settings, struck, cache) as process:
            seconds = process.until(f"at {point}").kill(number)
        assert process.process.returncode == EXIT_PREEMPTED, (point, process.err)
        assert seconds < 10, point
        assert f"past {point}" not in process.out.splitlines()
        saved = Checkpoints(struck / "checkpoints", 2).latest()
        assert (saved in steps) if steps else saved is None, (point, saved)
        if steps:
            assert runs.state(struck)["step"] == saved
        assert not (struck / "result.json").exists()
    for workdir in (struck, alone):
        with runs.train(settings, workdir, cache) as process:
            process.end()
    runs.assert_same_run(struck, alone)


def test_a_second_trainer_of_a_workdir_is_refused_in_one_line(cache, tmp_path):
    settings = runs.settings(("lstm",))
    with runs.stopped_at("data", settings, tmp_path, cache) as first:
        first.until("at data")
        with runs.train(settings, tmp_path, cache) as second:
            second.end(code=2)
        first.kill(signal.SIGTERM)
    pid = first.process.pid
    assert second.err.count("\n") == 1 and f"in use by pid {pid}" in second.err
    assert first.process.returncode == EXIT_PREEMPTED


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    unbroken, cache, tmp_path
):
    """The newest is set aside with a warning, the replayed rows are cut."""
    settings = KINDS["diagonal"]
    with runs.stopped_at("stuck=5", settings, tmp_path, cache) as process:
        saved = tmp_path / "checkpoints" / "4"
        process.until("at stuck=5").waits_for(saved).kill()
    files = (path for path in saved.rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with runs.train(settings, tmp_path, cache) as process:
        process.end()
    assert "going on from step 2" in process.out and "4.bad" in process.err
    runs.assert_same_run(tmp_path, unbroken["diagonal"])
