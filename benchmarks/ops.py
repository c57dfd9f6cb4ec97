"""python -m benchmarks.ops [--out=FOLDER] [OP ...]: each op with a matrix state against
its own per-token scan under autodiff, forward and backward.

Ratio: the scan's milliseconds over ours; smaller: its temporary bytes over ours, as XLA
allots them. Float32, B 2, T 1024, H 4, K 64, V 64; the selective scan has F = H K and
N = 16.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, blocked, main, medians
from lm import sequence
from lm.ops import delta, dplr, linear, mlstm, naive, selective

SHAPE = B, T, H, K, V = 2, 1024, 4, 64, 64


def normal(*shape: int, seed: int) -> np.ndarray:
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


def measure(names: list[str]) -> Iterator[Row]:
    for name, (fast, slow, arguments) in cases().items():
        if names and name not in names:
            continue
        forms = {"fast": fast, "per token": slow}
        programs = {form: compiled(op, arguments) for form, op in forms.items()}
        runs = {f"{k} ms": blocked(p, arguments) for k, p in programs.items()}
        mebibytes = {
            f"{form} MiB": program.memory_analysis().temp_size_in_bytes / 2**20
            for form, program in programs.items()
        }
        values = medians(runs) | mebibytes
        values["times smaller"] = values["per token MiB"] / values["fast MiB"]
        yield Row(name, values["per token ms"] / values["fast ms"], values=values)


if __name__ == "__main__":
    main(__doc__, measure)
