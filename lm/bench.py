"""How fast a model decodes: milliseconds a token at each context, and its bound."""

import statistics
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from lm import generate, quantize
from lm import model as models
from lm.config import ConfigError

WEIGHTS: dict[str, Callable] = {"float32": lambda params: params, "int8": quantize.int8}
REPEATS = 5
HEAD = ("context", "tokens/s", "ms/token", "of bound", "state bytes", "prefill/s")


def size(tree) -> int:
    """Bytes of all leaves."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


class Decoder:
    """A model with drawn weights, and a state that it steps in place, greedily.

    Args:
      context: tokens that are read before the first step, in pieces as by `generate`.
      room: past tokens that attention keeps; by default context + 64.

    Attributes:
      prefill: tokens a second of the prompt, once its programs are compiled.
    """

    def __init__(self, model, params, batch: int, context: int, room: int = 0):
        rng = np.random.default_rng(0)
        prompts = list(rng.integers(0, model.vocab_size, (batch, context), np.int32))
        capacity = room or context + 64
        first = [row[: generate.PIECE] for row in prompts]
        jax.block_until_ready(generate.read(model, params, first, capacity))
        start = time.perf_counter()
        self._made = generate.read(model, params, prompts, capacity)
        jax.block_until_ready(self._made)
        self.prefill = batch * context / (time.perf_counter() - start)
        self.state_bytes = size(self._made.state)
        self._params, self._step = params, generate.functions(model)[1]

    def __call__(self, tokens: int = 1) -> None:
        """Steps `tokens` times and waits for the last."""
        made = self._made
        for _ in range(tokens):
            _, made = self._step(self._params, made, 0, 0.0)
        self._made = jax.block_until_ready(made)

    def milliseconds(self, tokens: int) -> float:
        """A token's, the median over REPEATS runs of so many."""
        self()
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            self(tokens)
            times.append(1e3 * (time.perf_counter() - start) / tokens)
        return statistics.median(times)


def weights(config, vocab_size: int, kind: str):
    """(model, parameters drawn anew), unrolled, of a resolved config."""
    model = models.build(config, vocab_size)
    params = model.unstack(jax.jit(model.initial_params)(config.seed))
    return model.unrolled(), jax.block_until_ready(WEIGHTS[kind](params))


def decode(
    config,
    contexts: tuple[int, ...],
    batch: int,
    tokens: int,
    kind: str,
    vocab_size: int,
    bandwidth: Callable[[], float],
) -> Iterator[tuple]:
    """A row under HEAD for each context.

    The bound is the time in which all bytes of the parameters are read once, at as many
    bytes a second as `bandwidth` measures; rows of a batch share it.

    Raises:
      ConfigError: contexts that pass the model's learned positions.
    """
    steps = 1 + REPEATS * tokens
    if config.model.position == "learned":
        for context in contexts:
            if context + steps > config.data.context:
                raise ConfigError(
                    f"--contexts={context} and the {steps} tokens that are timed pass "
                    f"the model's {config.data.context} learned positions: take fewer, "
                    "or set --config.data.context"
                )
    model, params = weights(config, vocab_size, kind)
    bound = 1e3 * size(params) / bandwidth()
    for context in contexts:
        decoder = Decoder(model, params, batch, context, context + steps)
        ms = decoder.milliseconds(tokens)
        yield (
            context,
            1e3 * batch / ms,
            ms,
            bound / ms,
            decoder.state_bytes,
            decoder.prefill,
        )


def line(row: tuple) -> str:
    context, speed, ms, fraction, state_bytes, prefill = row
    cells = [f"{context:,}", f"{speed:,.1f}", f"{ms:,.3f}", f"{fraction:.0%}"]
    cells += [f"{state_bytes:,}", f"{prefill:,.0f}"]
    return " ".join(f"{cell:>13}" for cell in cells)
