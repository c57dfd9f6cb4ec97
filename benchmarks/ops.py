"""python -m benchmarks.ops [--out=FOLDER]: each op with a matrix state against its own
per-token scan under autodiff, forward and backward, on this machine.

Times are medians of alternating calls, each after an untimed one; bytes are XLA's
temporaries of the compiled program. Writes FOLDER/ops.json and FOLDER/ops.md.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm import sequence
from lm.ops import delta, dplr, linear, mlstm, naive, selective
from lm.runtime import machine

B, T, H, K, V = 2, 1024, 4, 64, 64
REPEATS = 7


def normal(*shape: int, seed: int):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cases() -> dict[str, tuple[Callable, Callable, tuple]]:
    """{op: (fast, per token, arguments that are differentiated)}."""
    seq = sequence.full(B, T, start=1)
    q, k, v = (normal(B, T, H, n, seed=i) for i, n in enumerate((K, K, V)))
    state = normal(B, H, K, V, seed=3)
    g = -np.abs(normal(B, T, H, seed=4))
    g_vector = -np.abs(normal(B, T, H, K, seed=5))
    beta = 2 / (1 + np.exp(-normal(B, T, H, seed=6)))
    pair = lambda fast, slow, *arguments: (
        lambda *a: fast(*a, seq),
        lambda *a: slow(*a, seq),
        arguments,
    )
    undecayed = lambda op: lambda q, k, v, state, seq: op(q, k, v, None, state, seq)
    ungated = lambda op: lambda q, k, v, b, state, seq: op(q, k, v, b, None, state, seq)
    fast, slow = linear.attention, naive.linear
    w = -0.6 / (1 + np.exp(-g_vector))
    a, b = -unit(k), unit(k) * beta[..., None] / 2
    i, f = normal(B, T, H, seed=7), 3 + normal(B, T, H, seed=8)
    empty = (0 * state, 0 * state[..., 0], 0 * state[..., 0, 0])
    F, N = H * K, 16
    x, dt = normal(B, T, F, seed=10), np.abs(normal(B, T, F, seed=11)) / 10
    read, write = normal(B, T, N, seed=12), normal(B, T, N, seed=13)
    rates = -np.broadcast_to(np.arange(1, N + 1, dtype=np.float32), (F, N))
    inner = normal(B, F, N, seed=14)
    return {
        "linear, no decay": pair(undecayed(fast), undecayed(slow), q, k, v, state),
        "linear, scalar decay": pair(fast, slow, q, k, v, g, state),
        "linear, vector decay": pair(fast, slow, q, k, v, g_vector, state),
        "delta rule": pair(
            ungated(delta.rule), ungated(naive.delta), q, unit(k), v, beta, state
        ),
        "gated delta rule": pair(
            delta.rule, naive.delta, q, unit(k), v, beta, g, state
        ),
        "decay and low rank": pair(dplr.rule, naive.dplr, q, w, k, v, a, b, state),
        "mLSTM": pair(mlstm.cell, naive.mlstm, q, k, v, i, f, empty),
        "selective scan": pair(
            selective.scan, naive.selective, x, dt, rates, write, read, inner
        ),
    }


def compiled(op: Callable, arguments: tuple):
    """The gradient of a random projection of the outputs and the state."""

    def total(arguments):
        outputs = jax.tree.leaves(op(*arguments))
        return sum(jnp.sum(x * normal(*x.shape, seed=9)) for x in outputs)

    return jax.jit(jax.value_and_grad(total)).lower(arguments).compile()


def compare(programs: list, arguments: tuple) -> list[dict]:
    """Median milliseconds and megabytes of temporaries of each program."""
    times = [[] for _ in programs]
    for _ in range(REPEATS):
        for program, found in zip(programs, times, strict=True):
            # A call after another program finds caches and pages that are not its own.
            jax.block_until_ready(program(arguments))
            start = time.perf_counter()
            jax.block_until_ready(program(arguments))
            found.append(1e3 * (time.perf_counter() - start))
    megabytes = lambda program: program.memory_analysis().temp_size_in_bytes / 2**20
    return [
        {"ms": statistics.median(found), "mib": megabytes(program)}
        for program, found in zip(programs, times, strict=True)
    ]


def measure(names: list[str]) -> list[dict]:
    rows = []
    for name, (fast, slow, arguments) in cases().items():
        if names and name not in names:
            continue
        programs = [compiled(op, arguments) for op in (fast, slow)]
        one, two = compare(programs, arguments)
        row = {"op": name, "fast": one, "per_token": two}
        row["times_faster"] = two["ms"] / one["ms"]
        row["times_smaller"] = two["mib"] / one["mib"]
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    cells = [row["op"]]
    for form in ("fast", "per_token"):
        cells += [f"{row[form]['ms']:.0f} ms", f"{row[form]['mib']:.0f} MiB"]
    cells += [f"{row['times_faster']:.1f}x", f"{row['times_smaller']:.1f}x"]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict) -> str:
    where, size = result["machine"], result["size"]
    lines = [line(row) for row in result["rows"]]
    sizes = ", ".join(f"{name} {value}" for name, value in size.items())
    return f"""Ops with a matrix state, forward and backward, against their own scans of
one token after another: median time and temporary memory.

{where["cpus"]} cores of {where["device"]}, jax {where["packages"]["jax"]}; {sizes};
the selective scan has F = H K and N = 16.

| op | fast | | per token | | faster | smaller |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("names", nargs="*")
    flags = parser.parse_args()
    rows = measure(flags.names)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        size = dict(B=B, T=T, H=H, K=K, V=V, dtype="float32")
        result = {"machine": machine(), "size": size, "rows": rows}
        (flags.out / "ops.json").write_text(json.dumps(result, indent=1) + "\n")
        (flags.out / "ops.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
