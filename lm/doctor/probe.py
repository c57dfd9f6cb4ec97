"""What only jax knows, one JSON line [section, key, value] a fact, as it is found.

`python -m lm.doctor.probe` is a process of its own: a device that another process
holds may end or hang the one that asks for it, and then what was printed stands.
"""

import json
import time

REPEATS = 3


def main() -> None:
    """Prints all facts, the slowest to find last."""
    began = time.perf_counter()
    import jax

    devices = jax.devices()
    tell("jax", "backend", jax.default_backend())
    tell("jax", "devices", [described(device) for device in devices])
    tell("jax", "x64", jax.config.jax_enable_x64)
    tell("jax", "seconds", time.perf_counter() - began)

    from lm import limits, runtime

    runtime.keep_compiled()
    tell("compiled", "folder", jax.config.jax_compilation_cache_dir)
    tell("speed", "float32", limits.matmul_peak(REPEATS))
    tell("speed", "read", limits.read_bandwidth(REPEATS))
    tell("speed", "bfloat16", limits.matmul_peak(REPEATS, "bfloat16"))


def described(device) -> dict:
    """kind, memory in bytes; None where the backend does not say (CPU)."""
    stats = device.memory_stats() or {}
    return {"kind": device.device_kind, "memory": stats.get("bytes_limit")}


def tell(section: str, key: str, value) -> None:
    print(json.dumps([section, key, value]), flush=True)


if __name__ == "__main__":
    main()
