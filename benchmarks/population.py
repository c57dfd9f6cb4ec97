"""python -m benchmarks.population [--out=FOLDER] [NAME ...]: tokens a second of 24 runs
that are one program (lm/population.py) over those of one run after another.

NAME: lstm, attention. Width 32, 2 layers, batches of 64 rows of 20 tokens. Below 1, as
on a CPU, MEMBERS of lm/sweep/workers.py should be 1 for this kind of device.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from lm import config as configs
from lm import optim, sequence
from lm.data import Batch
from lm.population import stack
from lm.program import program
from lm.sequence import Sequence

ROWS, CONTEXT, VOCAB = 64, 20, 64
NAMES = ("lstm", "attention")


def update(config, P: int) -> Callable[[], float]:
    """An update of P members on batches in memory; returns the sum of their losses."""
    one = program(config, VOCAB)
    together = stack(one, P)
    shape = (P, ROWS, CONTEXT + 1)
    ids_PxBxT = np.random.default_rng(0).integers(0, VOCAB, shape, np.int32)
    seq = Sequence(*sequence.full(ROWS, CONTEXT)[:4])
    weights_BxT = np.ones((ROWS, CONTEXT), np.float32)
    batch = together.put(
        [Batch(ids[:, :-1], ids[:, 1:], weights_BxT, seq) for ids in ids_PxBxT]
    )
    hyper = together.put([optim.hyper(config, 1000, 10)] * P)
    seeds = map(np.int32, range(P))
    state = together.put([jax.device_get(one.init(seed)) for seed in seeds])
    step = together.compile(config, state, batch, hyper)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch, hyper)
        return float(metrics["loss"].sum())

    return run


def measure(names: list[str], P: int = 24) -> Iterator[Row]:
    for name in names or NAMES:
        sizes = {
            "model.pattern": (name,),
            "model.width": 32,
            "model.depth": 2,
            "data.context": CONTEXT,
            "eval.stream_chunk": CONTEXT,
            "train.batch_tokens": ROWS * CONTEXT,
        }
        config = configs.resolve(configs.load("configs/base.py", sizes))
        single, _ = harness.train_step(config, VOCAB)
        programs = {"one ms": single, f"{P} ms": update(config, P)}
        values = harness.medians(programs, calls=3)
        ratio = P * values["one ms"] / values[f"{P} ms"]
        values["one tokens/s"] = 1e3 * ROWS * CONTEXT / values["one ms"]
        yield Row(f"{name}, {P} runs as one program", ratio, values=values)


if __name__ == "__main__":
    harness.main(__doc__, measure)
