"""A run that was killed or preempted, wherever, ends as if it had not been: bitwise."""

import signal

import pytest

from lm.checkpoint import WRITING, Checkpoints
from lm.signals import EXIT_PREEMPTED
from tests import runs

KINDS = {
    "nonlinear": ("lstm",),
    "diagonal": ("rglru",),
    "cache": ("attention",),
    "hybrid": ("lstm", "attention"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of token files and compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unbroken(cache, tmp_path_factory):
    """{kind: workdir} of runs that nothing disturbed, made by one process."""
    folder = tmp_path_factory.mktemp("unbroken")
    commands = [
        runs.flags(runs.settings(pattern), folder / kind)
        for kind, pattern in KINDS.items()
    ]
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
            runs.wait_for(writing.exists)
            process.kill()
        if writing.exists() and not (folder / "checkpoints" / str(step)).exists():
            return folder
    raise AssertionError("no kill hit a save")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_a_save_and_between_saves_ends_bitwise_equal(
    kind, unbroken, cache, tmp_path
):
    settings = runs.settings(KINDS[kind])
    workdir = killed_in_a_save(settings, tmp_path, cache, step=4)
    assert Checkpoints(workdir / "checkpoints", 2).steps() == [2]

    # Goes on from 2, saves 4, is killed before the last update.
    with runs.stopped_at("stuck=5", settings, workdir, cache) as process:
        process.until("at stuck=5")
        runs.wait_for((workdir / "checkpoints" / "4").exists)
        process.kill()
    assert process.process.returncode == -signal.SIGKILL
    assert not list((workdir / "checkpoints").glob(f"*{WRITING}*"))

    with runs.train(settings, workdir, cache) as process:
        assert "going on from step 4" in process.end().out
    assert [row["step"] for row in runs.train_rows(workdir)] == [1, 2, 3, 4, 5, 6]
    assert len({row["batch"] for row in runs.train_rows(workdir)}) == 6
    runs.assert_same_run(workdir, unbroken[kind])


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
    cache, tmp_path
):
    """One run, struck once in each phase by turns, and the same run left alone."""
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
        assert f"past {point}" not in process.out.split("\n") or "step" in point
        checkpoints = Checkpoints(struck / "checkpoints", 2)
        saved = checkpoints.latest()
        assert (saved in steps) if steps else saved is None, (point, saved)
        if steps:
            assert runs.state(struck)["step"] == saved
        assert not (struck / "result.json").exists()
    for workdir in (struck, alone):
        with runs.train(settings, workdir, cache) as process:
            process.end()
    runs.assert_same_run(struck, alone)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    unbroken, cache, tmp_path
):
    """The newest is set aside with a warning, the replayed rows are cut."""
    settings = runs.settings(KINDS["diagonal"])
    with runs.stopped_at("stuck=5", settings, tmp_path, cache) as process:
        process.until("at stuck=5")
        runs.wait_for((tmp_path / "checkpoints" / "4").exists)
        process.kill()
    largest = max(
        (p for p in (tmp_path / "checkpoints" / "4").rglob("*") if p.is_file()),
        key=lambda path: path.stat().st_size,
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with runs.train(settings, tmp_path, cache) as process:
        process.end()
    assert "going on from step 2" in process.out and "4.bad" in process.err
    runs.assert_same_run(tmp_path, unbroken["diagonal"])
