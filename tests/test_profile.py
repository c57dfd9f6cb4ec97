"""train --profile: the updates that were asked for are in the trace, and no others."""

import jax
import pytest

from lm import cli, train
from tests import runs
from tests.test_record import cut_back


def traces(workdir) -> list[list[int]]:
    """The steps of the updates in each trace of a workdir, oldest first."""
    found = []
    for path in sorted((workdir / "profile").rglob("*.xplane.pb")):
        data = jax.profiler.ProfileData.from_file(str(path))
        events = [
            dict(event.stats)
            for plane in data.planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        ]
        found.append(sorted({int(stats["step_num"]) for stats in events}))
    return found


def test_the_updates_are_traced_also_where_a_run_goes_on_and_no_bit_changes(tmp_path):
    plain, traced = tmp_path / "plain", tmp_path / "traced"
    train.run(runs.config(), plain)
    train.run(runs.config(), traced, range(3, 6))
    assert traces(traced) == [[3, 4, 5]]
    runs.assert_same_run(traced, plain)

    cut_back(traced, step=4)
    train.run(runs.config(), traced, range(1, 3))  # it is past them
    assert traces(traced) == [[3, 4, 5]]
    cut_back(traced, step=4)
    train.run(runs.config(), traced, range(3, 5))  # 4 is left of them
    assert traces(traced)[1:] == [[4]]
    runs.assert_same_run(traced, plain)


def test_a_run_that_fails_leaves_the_trace_up_to_there(tmp_path, monkeypatch):
    monkeypatch.setattr(train.Rows, "validation", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(runs.config(), tmp_path, range(1, 6))
    assert traces(tmp_path) == [[1, 2]]


@pytest.mark.parametrize(
    "steps, words",
    [
        ("5", "must be START:STOP"),
        ("5:5", "must be START:STOP"),
        ("-1:3", "must be START:STOP"),
        ("4:7", "goes beyond the end of training: train.duration is 6 updates"),
    ],
)
def test_steps_that_cannot_be_traced_are_refused_in_one_line(
    steps, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train, "program", None)  # before any compilation
    flags = runs.flags(runs.settings(("lstm",)), tmp_path)
    assert cli.main([*flags, f"--profile={steps}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --profile={steps} ") and words in line
