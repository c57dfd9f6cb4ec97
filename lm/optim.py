"""AdamW whose decay goes by parameter name, with a schedule from traced numbers.

Loshchilov and Hutter 2019, arXiv 1711.05101. Names, never ranks, decide: the scan over
layers puts an axis before every leaf, so a stacked norm scale is a matrix by rank.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.mixers import MIXERS

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
    final_lr: jax.Array
    clip: jax.Array
    label_smoothing: jax.Array
    z_loss: jax.Array
    seed: jax.Array


def hyper(config, steps: int, warmup: int) -> Hyper:
    """Hyper of a resolved config, as NumPy scalars of fixed dtypes."""
    o, loss = config.optim, config.loss
    floats = (o.lr, o.weight_decay, warmup, steps, o.final_lr, o.clip)
    floats += (loss.label_smoothing, loss.z_loss)
    return Hyper(*map(np.float32, floats), np.int32(config.seed))


def warmup_factor(step, hyper: Hyper):
    """Linear from 1 / warmup at the first step to 1."""
    return jnp.minimum(1.0, (step + 1) / jnp.maximum(hyper.warmup, 1.0))


def cosine(step, hyper: Hyper):
    """Half a cosine from 1 after the warm-up to final_lr at the last step."""
    span = jnp.maximum(hyper.steps - 1 - hyper.warmup, 1.0)
    progress = jnp.clip((step - hyper.warmup) / span, 0.0, 1.0)
    return hyper.final_lr + (1 - hyper.final_lr) * 0.5 * (
        1 + jnp.cos(jnp.pi * progress)
    )


SCHEDULES = {"cosine": cosine, "constant": lambda step, hyper: 1.0}


def learning_rate(schedule: str, step, hyper: Hyper):
    """Rate of the update that makes step + 1 of step."""
    return hyper.lr * warmup_factor(step, hyper) * SCHEDULES[schedule](step, hyper)


def paths(tree):
    """The tree with each leaf replaced by its path, 'units/block_0/mixer/bias'."""
    name = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(name, tree)


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


def adam(config) -> optax.GradientTransformation:
    """The moments; clipping, decay and rate are applied in `update`."""
    o = config.optim
    return optax.scale_by_adam(o.b1, o.b2, o.eps)


def update(config, grads, state, params, step, hyper: Hyper):
    """One update -> (params, state, metrics); decay is decoupled, times the rate."""
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, hyper.clip / jnp.maximum(norm, 1e-16))
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, state = adam(config).update(grads, state)
    rate = learning_rate(config.optim.schedule, step, hyper)

    def apply(p, u, group):
        speed, decayed = FACTORS[group]
        decay = hyper.weight_decay * p if decayed else 0.0
        return p - speed * rate * (u + decay)

    params = jax.tree.map(apply, params, updates, groups(params))
    return params, state, {"grad_norm": norm, "lr": rate}
