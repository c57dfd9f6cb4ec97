"""Compiled programs are kept, and whatever is wrong with their folder ends no run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHILD = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax
from lm import runtime
runtime.keep_compiled()
print(jax.jit(lambda x: x * 3 + 4)(5), jax.config.jax_compilation_cache_dir)
"""


def child(cache, cpus: int = 1):
    """(printed, lines of stderr) of a process that compiles one program."""
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(cpus)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr.splitlines()


def entries(cache):
    return sorted(cache.rglob("jit__lambda*-cache"))


def test_a_program_is_kept_for_its_number_of_cpus(tmp_path):
    (result, folder), errors = child(tmp_path)
    assert (result, errors) == ("19", [])
    assert folder.startswith(str(tmp_path / "lm" / "xla")) and folder.endswith("-1")
    assert [path.parent for path in entries(tmp_path)] == [Path(folder)]
    assert child(tmp_path)[0] == ["19", folder]
    assert len(entries(tmp_path)) == 1
    cpus = len(os.sched_getaffinity(0))
    (_, other), _ = child(tmp_path, cpus)
    assert other.endswith(f"-{cpus}")


def test_a_damaged_program_is_one_line_and_compiled_again(tmp_path):
    (_, folder), _ = child(tmp_path)
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:9] + b"\xff" + whole[10:]):
        path.write_bytes(damaged)
        (result, _), (line,) = child(tmp_path)
        assert result == "19"
        assert line.startswith("WARNING: Error reading") and f"delete {folder}" in line


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "lm").write_text("a file")
    (result, folder), (line,) = child(tmp_path)
    assert (result, folder) == ("19", "None")
    assert line.startswith("WARNING: compiled programs are not kept")
