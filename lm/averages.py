"""Which parameters a training state is judged by: its own, or an average of them.

An average a of the parameters p_1, p_2, ... after each update is a recursion with a
weight that starts from 1, so what it starts from leaves no trace:

    a_n = (1 - w_n) a_{n-1} + w_n p_n
    ema     w_n = (1 - d) / (1 - d^n), d = train.ema_decay: the mean weighted by
            d^(n-k), corrected as Adam's moments are (arXiv 1412.6980)
    polyak  w_n = 1 / (n - s) after train.polyak_start = s, and 1 before: the mean of
            p_{s+1}, ..., p_n (Polyak and Juditsky 1992; of the tail: arXiv 1109.5647)
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.optimizers import OPTIMIZERS


def ema(config, n, hyper):
    log = math.log(config.train.ema_decay)
    return jnp.expm1(log) / jnp.expm1(log * n)


def polyak(config, n, hyper):
    return 1 / jnp.maximum(n - hyper.polyak_start, 1.0)


# (config, updates made so far, Hyper) -> weight of the newest parameters.
WEIGHTS: dict[str, Callable] = {"ema": ema, "polyak": polyak}


def start(config, params):
    """TrainState.average before the first update: nothing, unless one is asked for."""
    return params if config.train.average in WEIGHTS else ()


def update(config, average, params, step, hyper):
    """The average with the parameters after the update that made step + 1 of step."""
    if config.train.average not in WEIGHTS:
        return average
    w = WEIGHTS[config.train.average](config, jnp.float32(step + 1), hyper)
    return jax.tree.map(lambda a, p: (1 - w) * a + w * p, average, params)


def evaluated(config, state):
    """Parameters for validation, test and samples, of a TrainState."""
    at = lambda path: functools.reduce(getattr, path.split("/"), state)
    return _evaluated(config, at)


def restored(config, checkpoints, step: int, abstract_params):
    """The same from a checkpoint of a run with `config`, for evaluation and init_from.

    Nothing else of the training state is read.
    """
    at = lambda path: checkpoints.restore_params(step, abstract_params, path)
    return _evaluated(config, at)


def _evaluated(config, read):
    # A run of before these keys were there has neither.
    if config.train.get("average") in WEIGHTS:
        return read("average")
    optimizer = OPTIMIZERS[config.optim.get("name", "adamw")]
    return optimizer(config.optim).evaluated(read)
