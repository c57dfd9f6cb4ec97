"""One update: clip, an optimiser's direction, decoupled decay, a scheduled rate.

Decay and rate go by parameter name (Loshchilov and Hutter 2019, arXiv 1711.05101).
Names, never ranks, decide: the scan over layers puts an axis before every leaf, so a
stacked norm scale is a matrix by rank.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.mixers import MIXERS
from lm.optimizers import OPTIMIZERS
from lm.parameters import paths
from lm.schedules import learning_rate

# Group -> (factor of the learning rate, factor of the weight decay).
FACTORS = {"decay": (1.0, 1.0), "no_decay": (1.0, 0.0), "fast": (2.0, 0.0)}

# Group of a parameter, by the end of its path; a mixer adds its own.
GROUPS = (
    (r"kernel$", "decay"),
    (r"(bias|scale|embedding|/decay)$", "no_decay"),
)


class Hyper(NamedTuple):
    """Numbers that a sweep varies: arrays, so that a grid compiles the step once.

    Durations in steps; `final_lr` is a fraction of `lr`; `clip` a global norm.
    """

    lr: jax.Array
    weight_decay: jax.Array
    warmup: jax.Array
    steps: jax.Array
    decay: jax.Array
    polyak_start: jax.Array
    final_lr: jax.Array
    clip: jax.Array
    label_smoothing: jax.Array
    z_loss: jax.Array
    ar: jax.Array
    tar: jax.Array
    seed: jax.Array


def hyper(
    config, steps: int, warmup: int, decay: int = 0, polyak_start: int = 0
) -> Hyper:
    """Hyper of a resolved config, as NumPy scalars of fixed dtypes."""
    o, loss = config.optim, config.loss
    floats = (o.lr, o.weight_decay, warmup, steps, decay, polyak_start)
    floats += (o.final_lr, o.clip)
    floats += (loss.label_smoothing, loss.z_loss, loss.ar, loss.tar)
    return Hyper(*map(np.float32, floats), np.int32(config.seed))


def groups(params):
    """The tree of group names; a parameter that no rule knows is an error."""
    rules = [rule for kind in MIXERS.values() for rule in kind.parameter_groups]

    def group(path: str) -> str:
        for pattern, name in (*rules, *GROUPS):
            if re.search(pattern, path):
                return name
        raise ValueError(
            f"parameter {path!r} matches no group of lm/optim.py: end its name in "
            "'kernel' (decayed), 'bias' or 'scale' (not decayed), or add "
            "(regular expression, group) to its mixer's parameter_groups"
        )

    return jax.tree.map(group, paths(params))


def init(config, params):
    """The state of the config's optimiser before the first update."""
    return OPTIMIZERS[config.optim.name](config.optim).init(params)


def update(config, grads, state, params, step, hyper: Hyper):
    """One update -> (params, state, metrics).

    Every optimiser has the same path: gradients are clipped by their global norm, and
    `steps` adds the decay and multiplies by the rate, both times their group's factor.
    """
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, hyper.clip / jnp.maximum(norm, 1e-16))
    grads = jax.tree.map(lambda g: g * scale, grads)
    rate = learning_rate(config.optim.schedule, step, hyper)

    def steps(updates, params):
        def one(u, p, group):
            speed, decayed = FACTORS[group]
            decay = hyper.weight_decay * p if decayed else 0.0
            return speed * rate * (u + decay)

        return jax.tree.map(one, updates, params, groups(params))

    optimizer = OPTIMIZERS[config.optim.name](config.optim)
    params, state = optimizer.update(grads, state, params, steps, rate)
    return params, state, {"grad_norm": norm, "lr": rate}
