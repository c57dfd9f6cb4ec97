"""The machine a run is on: compilation cache, and the record in a result."""

import functools
import os
import platform
import re
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")
KEPT_SECONDS = 0.02  # of compilation, from which a program is kept


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/lm, by default ~/.cache/lm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lm"


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where.

    A folder a kind and number of CPUs: XLA cuts loops for as many threads as there are,
    which its key for a program leaves out. A folder that cannot be written, or an entry
    that is damaged, costs a warning of one line.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    name = re.sub(r"\W+", "-", f"{_cpu_model()} {_cpus()}")
    folder = cache_folder() / "xla" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f"WARNING: compiled programs are not kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Starting up is many programs; jax keeps those of a second or more.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)
    warnings.showwarning = functools.partial(_show, warnings.showwarning, folder)


def _show(show, folder: Path, message, *where) -> None:
    """warnings.showwarning, with one line and its remedy for what befalls the cache."""
    if "persistent compilation cache" in str(message):
        line = f"WARNING: {message}; if it comes again, delete {folder}"
        print(" ".join(line.split()), file=sys.stderr)
    else:
        show(message, *where)


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """A line of /proc/cpuinfo, of the first CPU; "" where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split(":", 1)[1] for line in lines if line.startswith(field)]
    return found[0].strip() if found else ""


def instructions() -> str:
    """The CPU's architecture and the vector instructions that XLA may choose."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    vector = re.compile(r"(avx|fma|f16c|amx|sve|asimd|bf16|i8mm)")
    return " ".join([platform.machine(), *filter(vector.match, flags)])


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(
        getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    )


def machine() -> dict:
    """What bitwise repetition depends on, beside the code: see docs/reliability.md."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": _cpu_model() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "cpus": _cpus(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
