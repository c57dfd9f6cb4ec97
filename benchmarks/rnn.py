"""python -m benchmarks.rnn [--out=FOLDER] [NAME ...]: an LSTM and a GRU layer, forward
and every gradient in float32, against torch.nn (batch_first) and flax.linen's nn.RNN.

Ratio: the peer's milliseconds over ours. Limit: the products alone, at the rate of a
large square product. Temporaries and compile time are of our program.
"""

import time
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.harness import Row, blocked, main, matmul_peak, medians
from lm import sequence
from lm.mixers import MIXERS
from lm.sequence import Sequence

T = 256
SHAPES = [(B, D) for D in (256, 512) for B in (16, 64)]
GATES = {"lstm": 4, "gru": 3}
TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
FLAX = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


def inputs(B: int, D: int) -> list[np.ndarray]:
    """x and the gradient of y, [B, T, D]; h and c, [B, D]."""
    rng = np.random.default_rng(0)
    shapes = 2 * [(B, T, D)] + 2 * [(B, D)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def gradients(apply: Callable, *arguments) -> tuple[Callable, object, float]:
    """(program of y and its gradients, compiled, seconds to compile).

    Args:
      apply: (params, x, state, seq) -> y.
      arguments: those of apply, then the gradient of y.
    """

    @jax.jit
    def run(params, x_BxTxD, state, seq, dy_BxTxD):
        call = lambda *inputs: apply(*inputs, seq)
        y_BxTxD, pull = jax.vjp(call, params, x_BxTxD, state)
        return y_BxTxD, pull(dy_BxTxD)

    arguments = jax.tree.map(jnp.asarray, arguments)
    lowered = run.lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    return blocked(compiled, *arguments), compiled, time.perf_counter() - start


def ours(cell: str, x_BxTxD, dy_BxTxD, h_BxD, c_BxD):
    """Resets and padding are arguments, as they are in training."""
    B, _, D = x_BxTxD.shape
    mixer = MIXERS[cell](D, 1, jnp.float32)
    state = (c_BxD, h_BxD) if cell == "lstm" else h_BxD
    seq = Sequence(*sequence.full(B, T, start=1)[:4])
    drawn = seq._replace(key=jax.random.key(0))
    params = mixer.init(jax.random.key(0), x_BxTxD, drawn, state, {})
    apply = lambda params, x, state, seq: mixer.apply(params, x, seq, state, {})[0]
    return gradients(apply, params, x_BxTxD, state, seq, dy_BxTxD)


def flaxs(cell: str, x_BxTxD, dy_BxTxD, h_BxD, c_BxD) -> Callable:
    layer = nn.RNN(FLAX[cell](x_BxTxD.shape[-1]))
    state = (c_BxD, h_BxD) if cell == "lstm" else h_BxD
    params = layer.init(jax.random.key(0), x_BxTxD, initial_carry=state)
    apply = lambda params, x, state, _: layer.apply(params, x, initial_carry=state)
    return gradients(apply, params, x_BxTxD, state, (), dy_BxTxD)[0]


def torchs(cell: str, x_BxTxD, dy_BxTxD, h_BxD, c_BxD) -> Callable:
    D = x_BxTxD.shape[-1]
    layer = TORCH[cell](D, D, batch_first=True)
    leaf = lambda x: torch.tensor(x, requires_grad=True)
    x, h, c = leaf(x_BxTxD), leaf(h_BxD[None]), leaf(c_BxD[None])
    dy, state = torch.tensor(dy_BxTxD), (h, c) if cell == "lstm" else h

    def run():
        for tensor in (*layer.parameters(), x, h, c):
            tensor.grad = None
        layer(x, state)[0].backward(dy)

    return run


def measure(names: list[str]) -> Iterator[Row]:
    peak = matmul_peak()
    for cell, gates in GATES.items():
        for B, D in SHAPES:
            name = f"{cell} B {B} T {T} D {D}"
            if names and cell not in names and name not in names:
                continue
            arrays = inputs(B, D)
            program, compiled, seconds = ours(cell, *arrays)
            programs = {"ours": program, "torch": torchs(cell, *arrays)}
            found = medians(programs | {"flax": flaxs(cell, *arrays)})
            flops = 3 * 2 * 2 * B * T * gates * D * D
            temporaries = compiled.memory_analysis().temp_size_in_bytes
            values = {f"{who} ms": ms for who, ms in found.items()} | {
                "limit ms": 1e3 * flops / peak,
                "temporaries MiB": temporaries / 2**20,
                "compile s": seconds,
            }
            over = lambda peer, found=found: found[peer] / found["ours"]
            yield Row(f"{name} / torch", over("torch"), 0.9, stretch=1.0, values=values)
            yield Row(f"{name} / flax", over("flax"), 1.2)


if __name__ == "__main__":
    main(__doc__, measure)
