"""python -m benchmarks.attention [--out=FOLDER] [NAME ...]: causal attention, forward
and gradient in float32, against torch's fused scaled_dot_product_attention.

Ratio: torch's milliseconds over ours. Temporaries are of our compiled program; "dense"
is our form that holds all query-key pairs at once.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.harness import REPEATS, Row, blocked, main, medians
from lm import sequence
from lm.ops import attention, kv_cache
from lm.sequence import Sequence

# (B, T, H, K)
SHAPES = (
    (8, 256, 8, 32),
    (8, 256, 4, 64),
    (4, 1024, 8, 64),
    (4, 1024, 4, 64),
    (2, 4096, 4, 64),
    (1, 16384, 4, 64),
)
LONGEST_DENSE = 4096


def inputs(B: int, T: int, H: int, K: int) -> list[np.ndarray]:
    """q, k, v and the gradient of y, each [B, T, H, K]."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((B, T, H, K), np.float32) for _ in range(4)]


def ours(arrays: list, form: Callable = attention.attend) -> tuple[Callable, int]:
    """(program of y and its gradients, bytes of its temporaries).

    The documents of the rows are an argument, as they are in training.
    """
    B, T, _, K = arrays[0].shape
    score = functools.partial(attention.dot, scale=K**-0.5)

    @jax.jit
    def run(q, k, v, dy, seq):
        places = kv_cache.places(kv_cache.empty_cache(B, 0, 1, 1, q.dtype), seq)
        attend = lambda q, k, v: form(q, k, v, *places, score=score)
        y_BxTxHxK, pull = jax.vjp(attend, q, k, v)
        return y_BxTxHxK, pull(dy)

    seq = sequence.full(B, T)[:4]
    arguments = (*map(jnp.asarray, arrays), Sequence(*map(jnp.asarray, seq)))
    compiled = run.lower(*arguments).compile()
    return blocked(compiled, *arguments), compiled.memory_analysis().temp_size_in_bytes


def torchs(arrays: list) -> Callable:
    """Program of y and its gradients, of torch's fused kernel in its own layout."""
    q, k, v, dy = (torch.tensor(x).transpose(1, 2).contiguous() for x in arrays)
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def run():
        for leaf in leaves:
            leaf.grad = None
        y = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        y.backward(dy)

    return run


def measure(names: list[str]) -> Iterator[Row]:
    dense = functools.partial(attention.attend, block=LONGEST_DENSE)
    for shape in SHAPES:
        name = "B {} T {} H {} K {}".format(*shape)
        if names and name not in names:
            continue
        arrays, T = inputs(*shape), shape[1]
        program, temporaries = ours(arrays)
        programs = {"ours ms": program, "torch ms": torchs(arrays)}
        if T <= LONGEST_DENSE:
            programs["dense ms"] = ours(arrays, dense)[0]
        repeats, calls = (5, 1) if T > 1024 else (REPEATS, 3)
        values = medians(programs, repeats, calls)
        ratio = values["torch ms"] / values["ours ms"]
        values["temporaries MiB"] = temporaries / 2**20
        yield Row(name, ratio, least=0.8, stretch=1.0, values=values)


if __name__ == "__main__":
    main(__doc__, measure)
