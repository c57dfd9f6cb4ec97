"""CPUs, memory, huge pages and folders, as the system's files tell of them.

All functions but `folders` take `root`, the folder that stands for "/".
"""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def cpus(root: Path) -> dict:
    """quota: CPUs' worth of time that the control group gives, None without a limit."""
    visible = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    found = re.search(r"model name\s*:\s*(.+)", _text(root / "proc/cpuinfo"))
    return {
        "model": found[1] if found else platform.machine(),
        "total": os.cpu_count(),
        "visible": len(visible),
        "quota": _quota(root),
    }


def _quota(root: Path) -> float | None:
    quotas = []
    for folder in _groups(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if not words:
            words = [_text(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period")]
        if words[0] not in ("", "max", "-1"):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and those above it, versions 1 and 2."""
    folders = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = base / path.strip("/")
        folders += [folder, *(p for p in folder.parents if p.is_relative_to(base))]
    return folders


def memory(root: Path) -> dict:
    """Bytes; limit: of the control group, where it is below the machine's."""
    rows = dict(re.findall(r"(\w+):\s+(\d+) kB", _text(root / "proc/meminfo")))
    total = int(rows["MemTotal"]) * 1024
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(g / name) for g in _groups(root, "memory") for name in names]
    limit = min((int(t) for t in texts if t.isdecimal()), default=total)
    return {
        "total": total,
        "available": int(rows["MemAvailable"]) * 1024,
        "limit": limit if limit < total else None,
    }


def huge_pages(root: Path, environment: Mapping[str, str]) -> dict:
    """mode: always, madvise or never, as the system's switch stands."""
    text = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    found = re.search(r"\[(\w+)\]", text)
    return {
        "mode": found[1] if found else "unknown",
        "tunables": environment.get("GLIBC_TUNABLES"),
        "preload": environment.get("LD_PRELOAD"),
    }


def folders(environment: Mapping[str, str]) -> dict[str, dict]:
    """Where token files and compiled programs, and runs by default, are written."""
    base = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return {
        "cache": _folder(Path(base) / "lm"),
        "runs": _folder(Path("runs").absolute()),
    }


def _folder(path: Path) -> dict:
    """error: why it can't be written, or None; it is not made."""
    there = next(p for p in (path, *path.parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
        error = None
    except OSError as why:
        error = f"cannot be written: {why.strerror}"
    return {"path": str(path), "free": shutil.disk_usage(there).free, "error": error}


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
