"""What a person sees of a run, and the clock behind it."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from lm import progress
from lm.progress import Progress

LINE = re.compile(
    r"step (\d+)/(\d+)  (loss|validation) (\d+\.\d{4}) (nats|bits per byte)"
    r"  ([\d,]+) tokens/s  (\d+):(\d\d) left"
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves by adding to its `now`."""
    clock = SimpleNamespace(now=100.0)
    time = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(progress, "time", time)
    return clock


def run(clock, steps: int, every: int, first: int = 0) -> Progress:
    """A run of 64 tokens a step, half a second each; a validation takes a minute."""
    shown = Progress(steps, 64, first, first * 0.5)
    shown.start()
    for step in range(first + 1, steps + 1):
        clock.now += 0.5
        shown.trained(step, 1000 / step)
        if step % every == 0:
            with shown.apart():
                clock.now += 60
                shown.validated({"bits_per_byte": 2 + step / 1000})
    return shown


@pytest.mark.parametrize("steps", [1, 7, 10, 95, 1000])
def test_elsewhere_about_ten_plain_lines_and_the_validations(clock, monkeypatch, steps):
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    run(clock, steps, every=max(steps // 4, 1))
    assert "\r" not in out.getvalue() and out.getvalue().endswith("\n")
    found = [LINE.fullmatch(line) for line in out.getvalue().splitlines()]
    assert all(found)
    trained = [int(line[1]) for line in found if line[3] == "loss"]
    validated = [int(line[1]) for line in found if line[3] == "validation"]
    every = max(steps // 4, 1)
    assert validated == list(range(every, steps + 1, every))
    assert len(trained) == min(steps, 10) and trained[-1] == steps
    gaps = [b - a for a, b in zip([0, *trained], trained, strict=False)]
    assert max(gaps) <= -(-steps // 10), "they are spread over the run"
    for line in found:
        step, left = int(line[1]), 60 * int(line[7]) + int(line[8])
        assert int(line[2]) == steps
        assert float(line[4]) == pytest.approx(
            1000 / step if line[3] == "loss" else 2 + step / 1000, abs=1e-4
        )
        assert line[6] == "128", "tokens a second of training alone"
        assert left == (steps - step) // 2


def test_a_terminal_has_one_line_that_is_written_over(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    run(clock, 40, every=20)
    kept = out.getvalue().split("\n")
    assert len(kept) == 4 and kept[-1] == "", "two validations and the last step"
    writes = [[text for text in line.split("\r") if text] for line in kept[:-1]]
    assert sum(map(len, writes)) == 42, "every step is shown"
    for text in sum(writes, []):
        assert LINE.fullmatch(text.rstrip())
        assert len(text) == 79, "nothing is left of a longer line, and none is wrapped"
    last = [line[-1].split()[2] for line in writes]
    assert last == ["validation", "loss", "validation"]


def test_a_run_that_goes_on_counts_what_was_done_before(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    shown = run(clock, 100, every=1000, first=55)
    found = [LINE.fullmatch(line) for line in out.getvalue().splitlines()]
    assert [int(line[1]) for line in found] == [60, 70, 80, 90, 100]
    assert {line[6] for line in found} == {"128"}
    assert shown.speed() == {"tokens_per_second": 128, "seconds": 50}


def test_the_clock_stands_until_the_start_and_apart(clock):
    shown = Progress(10, 64, 0, 3.0)
    clock.now += 7
    assert shown.seconds() == 3
    shown.start()
    clock.now += 1
    with pytest.raises(ValueError), shown.apart():
        clock.now += 7
        assert shown.seconds() == 4
        raise ValueError
    clock.now += 2
    assert shown.seconds() == 6
