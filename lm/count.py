"""What a model costs: parameters, model FLOPs, executed FLOPs, and bytes of state.

Model FLOPs are what the equation needs: T times the matrix products of a single token,
plus what a mixer declares for its context (causal pairs only) and for pointwise
recurrences. They do not move with chunk, remat, backend or form, so budgets use them.
Executed FLOPs count the matrix products and convolutions of the program that runs, loop
bodies times their length (XLA's own analysis counts a body once): for utilisation only.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from lm import model as models
from lm import sequence
from lm.data import prepare
from lm.runs import QUANTITIES
from lm.sequence import Sequence


@functools.lru_cache(maxsize=4)
def abstract_params(model):
    """Shapes of the parameters: no array is made."""
    return jax.eval_shape(model.initial_params, jax.ShapeDtypeStruct((), jnp.int32))


def params(model) -> dict[str, int]:
    """Parameters, with and without the tables indexed by token and position."""
    abstract = abstract_params(model)
    tables = [leaf.size for name, leaf in abstract.items() if "embedding" in name]
    total = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    return {"params": total, "params_non_embedding": total - sum(tables)}


def _product(dims) -> int:
    return int(math.prod(dims))


def _equation(eqn) -> int:
    if eqn.primitive.name == "dot_general":
        (contract, _), (batch, _) = eqn.params["dimension_numbers"]
        left, right = (v.aval.shape for v in eqn.invars)
        size = _product(left) * _product(right)
        shared = _product(left[i] for i in contract) * _product(left[i] for i in batch)
        return 2 * size // shared if shared else 0
    if eqn.primitive.name == "conv_general_dilated":
        out, kernel = eqn.outvars[0].aval.shape, eqn.invars[1].aval.shape
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * _product(out) * _product(kernel) // features
    return 0


def executed(jaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a (closed) jaxpr.

    A scan counts its body `length` times, a cond its costliest branch; a while loop
    whose trips are not known is an error rather than a guess.
    """
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    total = 0
    for eqn in jaxpr.eqns:
        inner = [executed(j) for j in core.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "while" and sum(inner):
            raise ValueError("a while loop with matrix products has no known length")
        if eqn.primitive.name == "cond":
            total += max(inner)
        else:
            total += _equation(eqn) + eqn.params.get("length", 1) * sum(inner)
    return total


def _flops_of_call(model, length: int) -> int:
    """Executed FLOPs of one forward row of `length` tokens from an empty state."""
    seq = Sequence(*sequence.full(1, length)[:4])
    tokens_1xT = np.zeros((1, length), np.int32)
    call = lambda p: model.apply(
        {"params": p}, tokens_1xT, seq, model.initial_state(1, 0)
    )
    return executed(jax.make_jaxpr(call)(abstract_params(model)))


def forward_flops(model, length: int) -> int:
    """Model FLOPs of one forward row of `length` tokens."""
    return length * _flops_of_call(model, 1) + _context_flops(model, length)


def _context_flops(model, length: int) -> int:
    return model.context_flops(length)


def decode_flops(model, context: int) -> int:
    """Model FLOPs of the one token that follows `context` tokens."""
    more = _context_flops(model, context + 1) - _context_flops(model, context)
    return _flops_of_call(model, 1) + more


def state_bytes(model, context: int) -> int:
    """Bytes of the decoding state of one sequence that keeps `context` past tokens."""
    abstract = jax.eval_shape(lambda: model.unrolled().initial_state(1, context))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))


def contexts(context: int) -> list[int]:
    """Powers of four from 64 to 65,536, and the context itself."""
    return sorted({context, *(4**k for k in range(3, 9))})


def summary(model, context: int, tokens: int) -> dict:
    """The COUNT of a result: see docs/architecture.md. `tokens`: trained on."""
    forward = forward_flops(model, context)
    return params(model) | {
        "flops_per_token": forward / context,
        "train_flops": 3 * forward / context * tokens,
        "state_bytes": state_bytes(model, context),
        "decode_flops_per_token": decode_flops(model, context),
        "state_by_context": [[c, state_bytes(model, c)] for c in contexts(context)],
    }


def executed_step(model, rows: int, context: int) -> int:
    """Executed FLOPs of the loss and its gradient, rows of `context` tokens."""
    from lm import loss

    seq = sequence.full(rows, context)
    tokens = jax.ShapeDtypeStruct((rows, context), jnp.int32)

    def nats(p, tokens_BxT, targets_BxT):
        state = model.initial_state(rows, 0)
        logits, _ = model.apply({"params": p}, tokens_BxT, seq, state)
        return loss.summed(logits, targets_BxT, jnp.ones((rows, context)))[0]

    return executed(
        jax.make_jaxpr(jax.grad(nats))(abstract_params(model), tokens, tokens)
    )


def table(config, context: int | None = None) -> str:
    """What `run.py count` prints, for a resolved config."""
    context = context or config.data.context
    in_bytes = config.data.tokenizer == "bytes" and not config.data.get("task")
    model = models.build(config, 256 if in_bytes else prepare(config.data).vocab_size)
    c = summary(model, context, tokens=0)
    rows = max(config.train.batch_tokens // config.data.context, 1)
    run = executed_step(model, rows, context)
    lines = [
        f"layers                     {' '.join(model.layers)}",
        f"parameters                 {c['params']:>16,}",
        f"  without embeddings       {c['params_non_embedding']:>16,}",
        f"model FLOPs a token        {c['flops_per_token']:>16,.0f}  forward, "
        f"context {context}",
        f"  with backward            {3 * c['flops_per_token']:>16,.0f}",
        f"executed FLOPs a token     {run / rows / context:>16,.0f}  "
        "forward and backward, matrix products",
        f"decode FLOPs a token       {c['decode_flops_per_token']:>16,}  "
        f"after {context} tokens",
        "state of one sequence",
    ]
    lines += [
        f"  {n:>9,} tokens        {b:>16,} bytes" for n, b in c["state_by_context"]
    ]
    return "\n".join(lines)


def fit(build, key_name: str, quantity, target: float, tolerance: float = 0.01):
    """The integer at which `quantity(build(value))` comes nearest to `target`.

    Args:
      build: integer -> model; the quantity grows with it.
      key_name: for the error.

    Returns:
      (value, achieved).

    Raises:
      ValueError: no integer comes within `tolerance` (relative).
    """
    measure = lambda value: quantity(build(value))
    low, high = 1, 2
    while measure(high) < target and high < 2**24:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) < target else (low, middle)
    best = min((low, high), key=lambda value: abs(measure(value) - target))
    achieved = measure(best)
    if abs(achieved / target - 1) > tolerance:
        raise ValueError(
            f"no {key_name} brings the quantity within {tolerance:.0%} of {target:,}: "
            f"{key_name}={best} gives {achieved:,}; change the target or the width"
        )
    return best, achieved


def quantity(name: str, context: int):
    """model -> number: what a comparison can hold equal."""
    if name == "params":
        return lambda model: params(model)["params"]
    if name == "params_non_embedding":
        return lambda model: params(model)["params_non_embedding"]
    if name == "flops":
        return lambda model: forward_flops(model, context) / context
    if name == "state_bytes":
        return lambda model: state_bytes(model, context)
    raise ValueError(f"Match quantity {name!r}: take one of {', '.join(QUANTITIES)}")
