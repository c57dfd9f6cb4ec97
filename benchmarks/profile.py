"""Where the time of a compiled program goes, op by op, from XLA's own trace."""

import collections
import glob
import re
import tempfile
from collections.abc import Callable

import jax


def ops(program: Callable, calls: int = 5) -> list[tuple[float, int, str]]:
    """(milliseconds a call, times a call, op) of each op of `program`, slowest first.

    Ops of one kind that differ in their number only (dot.12, dot.13) keep their names;
    times of several threads add up.
    """
    program()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                program()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        data = jax.profiler.ProfileData.from_file(path)
        total, count = collections.Counter(), collections.Counter()
        for plane in data.planes:
            for thread in plane.lines:
                for event in thread.events:
                    if "hlo_op" in dict(event.stats):
                        total[event.name] += event.duration_ns / 1e6 / calls
                        count[event.name] += 1 / calls
    return [(ms, round(count[name]), name) for name, ms in total.most_common()]


def kinds(found: list[tuple[float, int, str]]) -> list[tuple[float, int, str]]:
    """`ops` summed over the numbers at the end of their names."""
    total, count = collections.Counter(), collections.Counter()
    for ms, times, name in found:
        kind = re.sub(r"[.\d]+$", "", name)
        total[kind] += ms
        count[kind] += times
    return [(ms, count[name], name) for name, ms in total.most_common()]


def show(program: Callable, calls: int = 5, most: int = 25) -> None:
    """Prints the slowest ops of `program`."""
    for ms, times, name in ops(program, calls)[:most]:
        print(f"{ms:9.2f} ms {times:6d}x {name}")
