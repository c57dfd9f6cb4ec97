"""The machine a run is on: compilation cache, and the record in a result."""

import os
import platform
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/lm, by default ~/.cache/lm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lm"


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def machine() -> dict:
    """What bitwise repetition depends on, beside the code: see docs/reliability.md."""
    device = jax.devices()[0]
    cpus = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return {
        "platform": device.platform,
        "device": _cpu_model() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "cpus": len(cpus),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
