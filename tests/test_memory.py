"""A process starts with an allocator that keeps pages, and is left alone elsewhere."""

import ctypes
import gc
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lm
from lm import memory

ROOT = Path(lm.__file__).parent.parent
AGAIN = """
import os, sys
from lm.memory import keep_pages
print("start")
sys.stdout.flush()
keep_pages()
names = "GLIBC_TUNABLES", "LD_PRELOAD", "MIMALLOC_PURGE_DELAY"
print(*map(os.environ.get, names))
print(sys.argv, "jax" in sys.modules, "mimalloc" in open("/proc/self/maps").read())
"""
FAULTS = """
import resource
import numpy as np
from lm.memory import keep_pages
keep_pages()
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
print(faults(), min(faults() for _ in range(3)))
"""


def started(code: str = AGAIN, **env) -> list[str]:
    """What a process prints that asks for its allocator."""
    ours = (memory.TUNABLES, memory.PRELOAD, memory.DELAY)
    clean = {k: v for k, v in os.environ.items() if k not in ours}
    command = [sys.executable, "-c", code, "--flag=1", "two words"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean | env, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_process_starts_again_once_with_its_arguments():
    library = memory.mimalloc()
    assert Path(library).is_file()
    assert started() == [
        "start",
        "start",
        f"glibc.malloc.hugetlb=1 {library} 10000",
        "['-c', '--flag=1', 'two words'] False True",
    ]


def test_pages_of_what_is_freed_come_back():
    first, again = map(int, started(FAULTS)[-1].split())
    assert again < 0.1 * first
    first, again = map(int, started(FAULTS, LD_PRELOAD="")[-1].split())
    assert again > 0.5 * first  # of glibc, which a test of mimalloc has to differ from


def test_workers_too_look_for_cycles_seldom():
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        runpy.run_path(str(ROOT / "run.py"), run_name="__mp_main__")  # as a child does
        assert gc.get_threshold()[0] >= 10_000
    finally:
        gc.set_threshold(*before)


def test_settings_of_the_user_stay():
    mine = "glibc.malloc.tcache_count=1"
    first, found, last = started(GLIBC_TUNABLES=mine)
    assert (first, found) == ("start", f"{mine} None None")
    *_, found, last = started(LD_PRELOAD="")
    assert found == "glibc.malloc.hugetlb=1  None" and last.endswith("False")
    *_, found, last = started(MIMALLOC_PURGE_DELAY="0")
    assert found.endswith(" 0") and last.endswith("True")


@pytest.mark.parametrize("folder", ["missing", "with a space", "with:colon", "whole"])
def test_a_library_is_named_where_it_can_be_preloaded(folder, tmp_path, monkeypatch):
    path = tmp_path / folder / memory.LIBRARY
    if folder != "missing":
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / folder)])
    assert memory.mimalloc() == (str(path) if folder == "whole" else None)


def test_huge_pages_without_the_library(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(memory, "mimalloc", lambda: None)
    asked = []
    monkeypatch.setattr(os, "execv", lambda *command: asked.append(command))
    memory.keep_pages()
    assert os.environ == {memory.TUNABLES: "glibc.malloc.hugetlb=1"}
    assert asked == [(sys.executable, sys.orig_argv)]


def test_another_system_or_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started again"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        memory.keep_pages()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep_pages()
    assert os.environ == {}
