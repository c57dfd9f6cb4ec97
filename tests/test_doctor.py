"""Findings of records written by hand, and one real run of the command."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm import doctor
from lm.accelerators import KINDS
from lm.data import tokens
from lm.doctor import check_host, checks, facts, host

ROOT = Path(doctor.__file__).parents[2]
SOUND = {
    "python": {"version": "3.11.7", "executable": "/usr/bin/python"},
    "packages": [
        {"name": "jax", "required": ">=0.10", "installed": "0.10.2", "fits": True}
    ],
    "environment": {},
    "cards": {
        name: {
            "maker": kind.maker,
            "present": [],
            "visible": [],
            "plugins": [],
            "driver": None,
        }
        for name, kind in KINDS.items()
    },
    "holders": [],
    "libraries": {"pip": [], "shadows": []},
    "cpus": {"model": "a CPU", "total": 8, "visible": 8, "quota": None},
    "memory": {"total": 2**35, "available": 2**34, "limit": None},
    "huge_pages": {
        "mode": "madvise",
        "tunables": "glibc.malloc.hugetlb=1",
        "preload": "/usr/lib/libmimalloc.so",
    },
    "folders": {
        "cache": {"path": "/home/me/.cache/lm", "free": 2**36, "error": None},
        "runs": {"path": "/home/me/lm/runs", "free": 2**36, "error": None},
    },
    "jax": {
        "backend": "cpu",
        "devices": [{"kind": "cpu", "memory": None}],
        "x64": False,
        "error": "",
    },
    "compiled": {"folder": "/home/me/.cache/lm/xla/a-CPU-8"},
    "speed": {"float32": 1e11, "bfloat16": 2e11, "read": 2e10},
}
CUDA = {
    "cards.cuda.present": ["0", "1"],
    "cards.cuda.visible": ["0", "1"],
    "cards.cuda.plugins": ["jax_cuda12_plugin"],
    "cards.cuda.driver": "550.54.14",
    "jax.backend": "gpu",
}
TPU = {
    "cards.tpu.present": ["0"],
    "cards.tpu.visible": ["0"],
    "cards.tpu.plugins": ["libtpu"],
    "jax.backend": "tpu",
    "huge_pages.mode": "always",
}


def record(*changes: dict) -> dict:
    """SOUND with {"section.key": value} changed."""
    made = copy.deepcopy(SOUND)
    for key, value in (pair for change in changes for pair in change.items()):
        *path, last = key.split(".")
        place = made
        for name in path:
            place = place[name]
        place[last] = value
    return made


def test_nothing_is_wrong_with_sound_machines():
    for changes in ({}, CUDA, TPU):
        assert checks.judge(record(changes)) == []


BROKEN = {
    "no plugin, new driver": (
        [CUDA, {"cards.cuda.plugins": [], "cards.cuda.driver": "580.65.06"}],
        "2 x NVIDIA GPU, and jax has no plugin",
        "make ACCEL=cuda13",
    ),
    "no plugin, driver": (
        [CUDA, {"cards.cuda.plugins": []}],
        "no plugin",
        "ACCEL=cuda12",
    ),
    "no plugin, old driver": (
        [CUDA, {"cards.cuda.plugins": [], "cards.cuda.driver": "470.82"}],
        "no plugin",
        "a driver of 525 or newer; then make ACCEL=cuda12",
    ),
    "no plugin, AMD": (
        [{"cards.rocm.present": ["0"], "cards.rocm.visible": ["0"]}],
        "1 x AMD GPU, and jax has no plugin",
        "jax[rocm7-local]",
    ),
    "no libtpu": ([TPU, {"cards.tpu.plugins": []}], "1 x TPU", "make ACCEL=tpu"),
    "old driver, 13": (
        [CUDA, {"cards.cuda.plugins": ["jax_cuda13_plugin"]}],
        "driver is 550.54.14; cuda13 needs 580",
        "or make ACCEL=cuda12",
    ),
    "old driver, 12": (
        [CUDA, {"cards.cuda.driver": "470.82"}],
        "cuda12 needs 525",
        "update the driver to 525",
    ),
    "only the CPU": (
        [CUDA, {"jax.backend": "cpu"}],
        "jax sees only the CPU",
        "says why",
    ),
    "no start": (
        [CUDA, {"jax.backend": None, "jax.error": "no kernel"}],
        "jax does not start: no kernel",
        "lm.doctor.probe",
    ),
    "TPU held": (
        [TPU, {"holders": [{"kind": "tpu", "pid": 7, "command": "/dev/accel0"}]}],
        "process 7 (/dev/accel0) is on a device: a TPU chip belongs to one",
        "TPU_VISIBLE_CHIPS",
    ),
    "GPU held": (
        [CUDA, {"holders": [{"kind": "cuda", "pid": 7, "command": "python"}]}],
        "process 7 (python) is on a device: jax takes most",
        "CUDA_VISIBLE_DEVICES",
    ),
    "platform without plugin": (
        [{"environment.JAX_PLATFORMS": "cuda,cpu"}],
        "jax has no plugin for cuda",
        "unset JAX_PLATFORMS",
    ),
    "twice": (
        [CUDA, {"environment.CUDA_VISIBLE_DEVICES": "0,0"}],
        "CUDA_VISIBLE_DEVICES=0,0 names a device twice",
        "export CUDA_VISIBLE_DEVICES=0",
    ),
    "shadowed": (
        [
            CUDA,
            {
                "libraries.pip": ["nvidia-cudnn-cu12"],
                "libraries.shadows": ["/x/libcudnn.so"],
            },
        ],
        "LD_LIBRARY_PATH has CUDA libraries (/x/libcudnn.so)",
        "unset LD_LIBRARY_PATH",
    ),
    "packages": (
        [
            {
                "packages": [
                    {
                        "name": "jax",
                        "required": ">=0.10",
                        "installed": "0.9",
                        "fits": False,
                    },
                    {
                        "name": "flax",
                        "required": ">=1",
                        "installed": None,
                        "fits": False,
                    },
                ]
            }
        ],
        "jax>=0.10 (0.9), flax>=1 (missing)",
        "pip install -r requirements.txt",
    ),
    "quota": ([{"cpus.quota": 2.5}], "8 CPUs are visible", "taskset -c 0-1"),
    "cache": (
        [{"folders.cache.error": "cannot be written: Permission denied"}],
        "/home/me/.cache/lm cannot be written: Permission denied",
        "XDG_CACHE_HOME",
    ),
    "runs": (
        [{"folders.runs.error": "cannot be written: x"}],
        "runs cannot",
        "--workdir",
    ),
    "compiled": ([{"compiled.folder": None}], "not kept", "JAX_COMPILATION_CACHE_DIR"),
}
UNUSUAL = {
    "variable": (
        [CUDA, {"cards.cuda.visible": [], "environment.CUDA_VISIBLE_DEVICES": ""}],
        "CUDA_VISIBLE_DEVICES='' hides all of NVIDIA GPU",
        "name devices: 0,1",
    ),
    "platforms": (
        [CUDA, {"environment.JAX_PLATFORMS": "cpu", "jax.backend": "cpu"}],
        "JAX_PLATFORMS=cpu keeps jax from 2 x NVIDIA GPU",
        "unset JAX_PLATFORMS",
    ),
    "preallocation": (
        [CUDA, {"environment.XLA_PYTHON_CLIENT_PREALLOCATE": "false"}],
        "PREALLOCATE is off",
        "unset",
    ),
    "allocator": (
        [CUDA, {"environment.XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}],
        "very slow",
        "unset",
    ),
    "devices": (
        [{"environment.JAX_NUM_CPU_DEVICES": "8"}],
        "makes 8 devices of this CPU",
        "unset JAX_NUM_CPU_DEVICES",
    ),
    "flags": (
        [{"environment.XLA_FLAGS": "--a --xla_force_host_platform_device_count=4"}],
        "XLA_FLAGS makes 4 devices",
        "take --xla_force_host_platform_device_count=4 out",
    ),
    "coretype": (
        [{"environment.OPENBLAS_CORETYPE": "Haswell"}],
        "last bits of orthogonal",
        "unset OPENBLAS_CORETYPE",
    ),
    "x64": ([{"jax.x64": True}], "64 bits", "unset JAX_ENABLE_X64"),
    "pages": ([{"huge_pages.mode": "never"}], "switched off", "echo madvise"),
    "TPU's pages": ([TPU, {"huge_pages.mode": "madvise"}], "TPU", "echo always"),
    "tunables": (
        [{"huge_pages.tunables": "glibc.malloc.check=3"}],
        "keeps run.py from",
        "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
    ),
    "preload": (
        [{"huge_pages.preload": "/opt/libwatch.so"}],
        "LD_PRELOAD=/opt/libwatch.so keeps run.py from mimalloc",
        "unset LD_PRELOAD",
    ),
    "full": ([{"folders.runs.free": 2**20}], "1 MiB free", "make room"),
}
CASES = [("wrong", *case) for case in BROKEN.values()]
CASES += [("note", *case) for case in UNUSUAL.values()]


@pytest.mark.parametrize("level, changes, problem, fix", CASES, ids=[*BROKEN, *UNUSUAL])
def test_a_fault_is_found_alone_with_its_fix(level, changes, problem, fix):
    (found,) = checks.judge(record(*changes))
    assert found.level == level
    assert problem in found.problem and fix in found.fix


def test_what_is_wrong_comes_first_and_is_told():
    made = record({"jax.x64": True, "cpus.quota": 1.0})
    found = checks.judge(made)
    assert [f.level for f in found] == ["wrong", "note"]
    lines = doctor.text(made, found).splitlines()
    assert lines[-1] == "1 wrong"
    assert doctor.text(SOUND, []).splitlines()[-1] == "nothing is wrong"


@pytest.mark.parametrize("name", SOUND)
def test_an_unknown_section_is_told_and_ends_nothing(name):
    made = record({name: {"unknown": "OSError: gone"}})
    found = checks.judge(made)
    assert found == []
    shown = doctor.text(made, found)
    assert ("unknown: OSError: gone" in shown) == (name in doctor.SHOWN)


def test_a_reader_that_fails_is_an_unknown():
    def reader():
        raise OSError("gone")

    assert facts._read(reader) == {"unknown": "OSError: gone"}


def test_packages_are_those_of_requirements():
    rows = {row["name"]: row for row in facts.packages()}
    assert rows["jax"]["required"] == "<0.12,>=0.10" and rows["jax"]["fits"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert len(rows) == sum(not line.startswith("#") for line in lines)


def test_a_plugin_is_held_to_the_version_that_jax_asks_for(tmp_path, monkeypatch):
    info = tmp_path / "jax_cuda12_plugin-0.4.2.dist-info"
    (tmp_path / "jax_cuda12_plugin").mkdir()
    (tmp_path / "jax_cuda12_plugin/__init__.py").touch()
    info.mkdir()
    (info / "METADATA").write_text("Name: jax-cuda12-plugin\nVersion: 0.4.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (row,) = [r for r in facts.packages() if r["name"] == "jax-cuda12-plugin"]
    assert row["installed"] == "0.4.2" and not row["fits"]
    (found,) = check_host.other_packages([row])
    assert "jax-cuda12-plugin" in found.problem


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "group, files, quota",
    [
        (
            "0::/a/b",
            {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "300000 100000\n"},
            1.5,
        ),
        ("0::/", {}, None),
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1\n"}, None),
        (
            "3:cpu:/x\n0::/",
            {
                "cpu/x/cpu.cfs_quota_us": "400000\n",
                "cpu/x/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
    ],
)
def test_the_quota_of_cpus_is_the_least_of_the_groups_above(
    tmp_path, group, files, quota
):
    write(tmp_path / "proc/self/cgroup", group + "\n")
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert host.cpus(tmp_path)["quota"] == quota


def test_memory_is_limited_by_the_group(tmp_path):
    meminfo = "MemTotal:  16 kB\nMemFree:  1 kB\nMemAvailable:  8 kB\n"
    write(tmp_path / "proc/meminfo", meminfo)
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    whole = {"total": 2**14, "available": 2**13, "limit": None}
    for text, limit in (("max", None), ("4096", 4096), (str(2**60), None)):
        write(tmp_path / "sys/fs/cgroup/memory.max", text + "\n")
        assert host.memory(tmp_path) == whole | {"limit": limit}


def test_the_driver_and_the_holder_of_a_device_are_read(tmp_path):
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n"
    write(tmp_path / "proc/driver/nvidia/version", version)
    write(tmp_path / "dev/nvidia0", "")
    assert facts.cards(tmp_path, {})["cuda"]["driver"] == "550.54.14"
    for pid in (7, 8):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/fd/3").symlink_to("/dev/accel0")
    rows = [{"pid": 7, "kind": "tpu", "command": "/dev/accel0"}]
    assert facts.holders(tmp_path, {}, own=8) == rows


def test_libraries_in_front_of_pips_are_listed(tmp_path):
    for name in ("libcudnn.so.9", "libm.so.6"):
        (tmp_path / name).touch()
    path = f"/nowhere::{tmp_path}"
    found = facts.libraries({"LD_LIBRARY_PATH": path})
    assert found["shadows"] == [str(tmp_path / "libcudnn.so.9")]


def test_the_cache_is_the_one_of_token_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    found = host.folders(os.environ)["cache"]
    assert found["error"] is None and not (tmp_path / "c").exists()
    assert found["path"] == str(tokens._cache(None))


def test_a_probe_that_hangs_or_dies_leaves_what_it_told(monkeypatch, tmp_path):
    line = """print('["jax", "backend", "tpu"]', flush=True)"""
    for code, seconds, told in (
        (f"{line}; import time; time.sleep(60)", 1.0, "not done after 1 seconds"),
        (f"{line}; raise SystemExit('held by another')", 60.0, "held by another"),
    ):
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("w") as stdout, err.open("w") as stderr:
            command = [sys.executable, "-c", code]
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        monkeypatch.setattr(facts, "PROBE_SECONDS", seconds)
        found = facts._end_probe(process, out, err, facts.time.monotonic() + seconds)
        assert found["jax"]["backend"] == "tpu" and told in found["jax"]["error"]


def test_the_command_tells_all_and_its_code_says_whether_something_is_wrong(tmp_path):
    whole = {key: os.environ[key] for key in os.environ if key != "OPENBLAS_CORETYPE"}
    for changes, note in (
        ({"XDG_CACHE_HOME": str(tmp_path)}, None),
        ({"JAX_PLATFORMS": "cuda"}, "jax does not start"),
    ):
        done = subprocess.run(
            [sys.executable, "run.py", "doctor", "--json"],
            cwd=ROOT,
            env=whole | changes,
            capture_output=True,
            text=True,
        )
        told = json.loads(done.stdout)
        wrong = [f["problem"] for f in told["findings"] if f["level"] == "wrong"]
        assert done.returncode == bool(wrong)
        assert set(told["facts"]) == set(SOUND)
        if note is None:
            assert told["facts"]["jax"]["backend"] == "cpu"
            assert set(told["facts"]["speed"]) == {"float32", "bfloat16", "read"}
            assert str(tmp_path) in told["facts"]["compiled"]["folder"]
        else:
            assert any(note in problem for problem in wrong)
