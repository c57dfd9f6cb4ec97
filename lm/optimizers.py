"""Optimisers by name: optax's directions, taken the same way by the same groups.

AdamW (arXiv 1711.05101), Muon (Jordan 2024; scaled as in arXiv 2502.16982), Lion (arXiv
2302.06675), SGD with momentum, and schedule-free AdamW (arXiv 2405.15682).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from lm.parameters import kinds

# Of one entry of Muon's update before the rate: what AdamW's is, so that its rates fit.
RMS = 0.2


class Optimizer(NamedTuple):
    """How parameters move, given how far.

    Attributes:
      init: params -> state, with moments under their parameters' paths.
      update: (grads, state, params, steps, rate) -> (params, state), where
        steps(updates, params) is what to subtract: decay added, rates multiplied.
      evaluated: read -> the parameters that evaluation uses; read(path) is the tree of
        parameters' shapes at "params" or "optimizer/..." of a training state.
    """

    init: Callable
    update: Callable
    evaluated: Callable[[Callable[[str], Any]], Any] = lambda read: read("params")


def direct(direction: optax.GradientTransformation) -> Optimizer:
    """The optimiser that subtracts the steps of a direction."""

    def update(grads, state, params, steps, rate):
        updates, state = direction.update(grads, state, params)
        return jax.tree.map(jnp.subtract, params, steps(updates, params)), state

    return Optimizer(direction.init, update)


def adamw(o) -> Optimizer:
    return direct(optax.scale_by_adam(o.b1, o.b2, o.eps))


def lion(o) -> Optimizer:
    return direct(optax.scale_by_lion(o.b1, o.b2))


def sgd(o) -> Optimizer:
    """Heavy ball: m = momentum m + g, so 1 / (1 - momentum) times plain SGD's rate."""
    return direct(optax.trace(o.momentum))


def muon(o) -> Optimizer:
    """Nesterov momentum of each matrix, orthogonalised; Adam for all else.

    What is orthogonalised is a leaf's last two axes, [in, out], as they are stored:
    each repeat, and each head that has an axis of its own, alone; a fused projection
    (q, k and v; the gates of an LSTM; all heads side by side) as one matrix.
    """
    matrix = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    dimensions = lambda updates: jax.tree.map(lambda _: matrix, updates)

    def scaled(updates, params):
        # A matrix [in, out] with singular values 1 has the rms 1 / sqrt(max(in, out)).
        return jax.tree.map(lambda u: RMS * max(u.shape[-2:]) ** 0.5 * u, updates)

    directions = {
        "matrix": optax.chain(
            contrib.scale_by_muon(beta=o.momentum, weight_dimension_numbers=dimensions),
            optax.stateless(scaled),
        ),
        "vector": optax.scale_by_adam(o.b1, o.b2, o.eps),
    }
    return direct(optax.partition(directions, kinds))


@jax.jit
def _average(b1, y, z):
    return jax.tree.map(lambda y, z: (y - (1 - b1) * z) / b1, y, z)


def schedule_free(o) -> Optimizer:
    """AdamW with an average in the place of momentum and of a schedule.

    Gradients are taken at y = b1 x + (1 - b1) z, the parameters of the training state;
    its optimiser's state has z, which moves; x, the mean of z weighted by the squares
    of the rates, is evaluated. The decay is of y, as in arXiv 2405.15682.
    """
    scale = optax.scale_by_rms(o.b2, o.eps, eps_in_sqrt=False, bias_correction=True)

    def wrapped(steps, rate):
        def move(grads, state, params):
            updates, state = scale.update(grads, state)
            return jax.tree.map(jnp.negative, steps(updates, params)), state

        base = optax.GradientTransformation(scale.init, move)
        return contrib.schedule_free(base, rate, o.b1)

    def update(grads, state, params, steps, rate):
        updates, state = wrapped(steps, rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    evaluated = lambda read: _average(o.b1, read("params"), read("optimizer/z"))
    return Optimizer(wrapped(None, 0.0).init, update, evaluated)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": adamw,
    "muon": muon,
    "lion": lion,
    "sgd": sgd,
    "schedule_free": schedule_free,
}
