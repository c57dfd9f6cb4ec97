"""Checks of packages, CPUs, memory, folders and settings, in checks.py's sense."""

import re
from collections.abc import Iterator

from lm.doctor.finding import Finding

LEAST_FREE = 2**30  # bytes; token files of small corpora and checkpoints fit


def other_packages(packages: list) -> Iterator[Finding]:
    """Packages that are missing, or of versions that are not asked for."""
    others = [
        f"{p['name']}{p['required']} ({p['installed'] or 'missing'})"
        for p in packages
        if not p["fits"]
    ]
    if others:
        yield Finding(
            "wrong",
            f"packages differ from requirements.txt: {', '.join(others)}",
            "pip install -r requirements.txt, together with the jax of your "
            "accelerator (make ACCEL=... does both)",
        )


def throttled(cpus: dict) -> Iterator[Finding]:
    """Fewer CPUs' worth of time than CPUs: XLA has a thread for each that it sees."""
    quota = cpus["quota"]
    if quota is not None and quota < cpus["visible"]:
        fitting = max(int(quota), 1)
        yield Finding(
            "wrong",
            f"{cpus['visible']} CPUs are visible and the control group gives the time "
            f"of {quota:g}: their threads are stopped in the midst of a step",
            f"taskset -c 0-{fitting - 1} python run.py ..., or a container with a set "
            "of CPUs in place of a quota",
        )


def small_pages(huge_pages: dict, cards: dict) -> Iterator[Finding]:
    """Memory comes anew, in small pages: docs/performance.md says what it costs."""
    mode, tunables, preload = (huge_pages[k] for k in ("mode", "tunables", "preload"))
    switch = "/sys/kernel/mm/transparent_hugepage/enabled"
    if cards["tpu"]["present"] and mode not in ("always", "unknown"):
        yield Finding(
            "note",
            f"huge pages are {mode}; jax says that a TPU starts faster with always",
            f'sudo sh -c "echo always > {switch}"',
        )
    elif mode == "never":
        yield Finding(
            "note",
            "huge pages are switched off: steps on a CPU take longer",
            f'sudo sh -c "echo madvise > {switch}"',
        )
    if tunables and "hugetlb" not in tunables:
        yield Finding(
            "note",
            f"GLIBC_TUNABLES={tunables} keeps run.py from mimalloc and huge pages",
            "unset GLIBC_TUNABLES, or for huge pages alone "
            f"GLIBC_TUNABLES={tunables}:glibc.malloc.hugetlb=1",
        )
    if preload is not None and "mimalloc" not in preload:
        yield Finding(
            "note",
            f"LD_PRELOAD={preload} keeps run.py from mimalloc: steps on a CPU take "
            "longer",
            "unset LD_PRELOAD, or put libmimalloc.so of cmeel-mimalloc into it",
        )


def no_room(folders: dict) -> Iterator[Finding]:
    """A folder that cannot be written, or is nearly full."""
    for name, folder in folders.items():
        if folder["error"] is not None:
            fix = {
                "cache": "export XDG_CACHE_HOME=FOLDER, one that can be written; token "
                "files alone: --config.data.cache=FOLDER",
                "runs": "--workdir=FOLDER or --out=FOLDER, one that can be written",
            }[name]
            yield Finding("wrong", f"{folder['path']} {folder['error']}", fix)
        elif folder["free"] < LEAST_FREE:
            yield Finding(
                "note",
                f"{folder['path']} has {folder['free'] / 2**20:.0f} MiB free",
                "make room, or name another folder",
            )


def not_kept(compiled: dict) -> Iterator[Finding]:
    """Compiled programs are not kept from one process to the next."""
    if "folder" in compiled and compiled["folder"] is None:
        yield Finding(
            "wrong",
            "compiled programs are not kept: each process compiles them again",
            "export JAX_COMPILATION_CACHE_DIR=FOLDER, one that can be written",
        )


def simulated(environment: dict) -> Iterator[Finding]:
    """One CPU passes for several devices."""
    flags = environment.get("XLA_FLAGS", "")
    forced = re.search(r"--xla_force_host_platform_device_count=(\d+)", flags)
    for variable, count in (
        ("JAX_NUM_CPU_DEVICES", environment.get("JAX_NUM_CPU_DEVICES", "")),
        ("XLA_FLAGS", forced[1] if forced else ""),
    ):
        if count.isdecimal() and int(count) > 1:
            yield Finding(
                "note",
                f"{variable} makes {count} devices of this CPU: for tests, not speed",
                f"unset {variable}"
                if variable != "XLA_FLAGS"
                else f"take {forced[0]} out of XLA_FLAGS",
            )


def other_bits(environment: dict, jax: dict) -> Iterator[Finding]:
    """Settings under which results differ from those of other machines."""
    if "OPENBLAS_CORETYPE" in environment:
        yield Finding(
            "note",
            f"OPENBLAS_CORETYPE={environment['OPENBLAS_CORETYPE']} moves the last bits "
            "of orthogonal initial matrices (elman, lstm, gru): docs/reliability.md",
            "unset OPENBLAS_CORETYPE to repeat a run bitwise",
        )
    if jax.get("x64"):
        yield Finding(
            "note",
            "jax_enable_x64 is on: where no dtype is given, arrays are 64 bits wide, "
            "slower and with other results",
            "unset JAX_ENABLE_X64",
        )
