"""The record of a machine that checks.py judges: a section a function, JSON throughout.

A section that could not be read is {"unknown": why}.
"""

import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm import accelerators
from lm.accelerators import KINDS
from lm.doctor import host

PROBE_SECONDS = 24.0  # what jax gets to start and to be timed in
PREFIXES = ("JAX_", "XLA_", "CUDA_", "HIP_", "ROCR_", "TPU_", "LIBTPU_", "OPENBLAS_")
NAMES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES", "OMP_NUM_THREADS")
LIBRARIES = re.compile(r"lib(cudart|cudnn|cublas|cublasLt|cusolver|cusparse)\.so")
EXTRAS = {
    "jax_cuda12_plugin": "cuda12",
    "jax_cuda13_plugin": "cuda13",
    "jax_rocm7_plugin": "rocm7-local",
    "libtpu": "tpu",
}


def gather(
    root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The whole record; `root` stands for "/" and `environment` for the process's own.

    Takes at most PROBE_SECONDS and a few commands of ASK_SECONDS each.
    """
    environment = dict(os.environ if environment is None else environment)
    with tempfile.TemporaryDirectory() as scratch:
        started = _start_probe(Path(scratch), environment)
        readers: dict[str, Callable[[], Any]] = {
            "python": python,
            "packages": packages,
            "environment": lambda: settings(environment),
            "cards": lambda: cards(root, environment),
            "holders": lambda: holders(root, environment, started[0].pid),
            "libraries": lambda: libraries(environment),
            "cpus": lambda: host.cpus(root),
            "memory": lambda: host.memory(root),
            "huge_pages": lambda: host.huge_pages(root, environment),
            "folders": lambda: host.folders(environment),
        }
        record = {name: _read(reader) for name, reader in readers.items()}
        return record | _end_probe(*started)


def _read(reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except Exception as error:  # said to the user: one reading lost is no reason to end
        return {"unknown": f"{type(error).__name__}: {error}"}


def python() -> dict:
    return {"version": platform.python_version(), "executable": sys.executable}


def packages() -> list[dict]:
    """What requirements.txt asks for on this machine, and jax of its plugins."""
    from packaging.requirements import Requirement

    path = Path(__file__).parents[2] / "requirements.txt"
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith("-")]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate()]
    for module, extra in EXTRAS.items():
        if importlib.util.find_spec(module):
            asked = map(Requirement, importlib.metadata.requires("jax") or [])
            wanted += [
                r for r in asked if r.marker and r.marker.evaluate({"extra": extra})
            ]
    rows = []
    for requirement in wanted:
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and requirement.specifier.contains(
            installed, prereleases=True
        )
        rows.append(
            {
                "name": requirement.name,
                "required": str(requirement.specifier),
                "installed": installed,
                "fits": fits,
            }
        )
    return rows


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that change what jax runs on, or its results."""
    chosen = lambda key: key.startswith(PREFIXES) or key in NAMES
    return {key: environment[key] for key in sorted(environment) if chosen(key)}


def cards(root: Path, environment: Mapping[str, str]) -> dict[str, dict]:
    """{kind: its devices, those left visible, plugins, driver}."""
    found = {}
    for name, kind in KINDS.items():
        present = accelerators.present(name, root, environment)
        found[name] = {
            "maker": kind.maker,
            "present": present,
            "visible": accelerators.visible(name, present, environment),
            "plugins": accelerators.plugins(name),
            "driver": _driver(root) if name == "cuda" and present else None,
        }
    return found


def _driver(root: Path) -> str | None:
    """Version of NVIDIA's kernel module."""
    path = root / "proc/driver/nvidia/version"
    found = (
        re.search(r"\s(\d+\.\d+(\.\d+)?)\s", path.read_text())
        if path.exists()
        else None
    )
    return found[1] if found else None


def holders(root: Path, environment: Mapping[str, str], own: int) -> list[dict]:
    """Processes but `own` on a GPU or TPU, as far as this user sees them."""
    query = "nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader"
    found = {}
    for line in accelerators.told(query.split(), environment).splitlines():
        pid, _, command = line.partition(", ")
        if pid.isdecimal():
            found[int(pid)] = {"kind": "cuda", "command": command}
    for link in glob.glob(f"{root}/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue  # gone since
        if re.match(r"/dev/(accel|vfio/)\d", target):
            found[int(link.split("/")[-3])] = {"kind": "tpu", "command": target}
    return [{"pid": pid} | row for pid, row in found.items() if pid != own]


def libraries(environment: Mapping[str, str]) -> dict:
    """CUDA libraries that pip installed, and those of LD_LIBRARY_PATH in front."""
    names = (d.metadata["Name"] or "" for d in importlib.metadata.distributions())
    shadows = []
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder and Path(folder).is_dir():
            shadows += [
                str(p)
                for p in sorted(Path(folder).iterdir())
                if LIBRARIES.match(p.name)
            ]
    return {
        "pip": sorted({n for n in names if n.startswith("nvidia-")}),
        "shadows": shadows,
    }


def _start_probe(scratch: Path, environment: dict[str, str]):
    """Starts probe.py; it takes what memory it needs, not most of a GPU's."""
    own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    out, err = (scratch / name for name in ("out", "err"))
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "lm.doctor.probe"],
            cwd=Path(__file__).parents[2],
            env=environment | own,
            stdout=stdout,
            stderr=stderr,
        )
    return process, out, err, time.monotonic() + PROBE_SECONDS


def _end_probe(process, out: Path, err: Path, deadline: float) -> dict[str, Any]:
    """The sections jax, compiled and speed, with what was found in time."""
    ended = ""
    try:
        code = process.wait(max(deadline - time.monotonic(), 0))
        if code:
            lines = err.read_text().strip().splitlines()
            ended = lines[-1] if lines else f"exit code {code}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = f"jax was not done after {PROBE_SECONDS:g} seconds"
    found: dict[str, Any] = {"jax": {"backend": None}, "compiled": {}, "speed": {}}
    for line in out.read_text().splitlines():
        section, key, value = json.loads(line)
        found[section][key] = value
    return found | {"jax": found["jax"] | {"error": ended}}
