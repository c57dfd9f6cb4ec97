"""A process takes huge pages where glibc gives them, and is left alone elsewhere."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lm
from lm import memory

AGAIN = """
import os, sys
from lm.memory import use_huge_pages
print("start")
sys.stdout.flush()
use_huge_pages()
print(os.environ["GLIBC_TUNABLES"], sys.argv, "jax" in sys.modules)
"""


def started(**env) -> list[str]:
    """What a process prints that asks for huge pages."""
    clean = {k: v for k, v in os.environ.items() if k != memory.TUNABLES}
    root = Path(lm.__file__).parent.parent
    command = [sys.executable, "-c", AGAIN, "--flag=1", "two words"]
    done = subprocess.run(
        command, cwd=root, env=clean | env, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_a_process_starts_again_once_with_its_arguments():
    last = "glibc.malloc.hugetlb=1 ['-c', '--flag=1', 'two words'] False"
    assert started() == ["start", "start", last]


def test_tunables_of_the_user_stay():
    mine = "glibc.malloc.tcache_count=1"
    first, last = started(GLIBC_TUNABLES=mine)
    assert (first, last.split()[0]) == ("start", mine)


def test_another_system_or_library_is_left_alone(monkeypatch):
    monkeypatch.delenv(memory.TUNABLES, raising=False)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started again"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        memory.use_huge_pages()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.use_huge_pages()
    assert memory.TUNABLES not in os.environ
