"""Learning rates from traced numbers, so that a grid of them compiles once.

A schedule is a factor of optim.lr at each step after the warm-up, which is linear and
multiplies it. All but "constant" and "inverse_sqrt" end at optim.final_lr.
"""

from collections.abc import Callable

import jax.numpy as jnp


def warmup_factor(step, hyper):
    """Linear from 1 / warmup at the first step to 1."""
    return jnp.minimum(1.0, (step + 1) / jnp.maximum(hyper.warmup, 1.0))


def _progress(step, hyper):
    """0 at the end of the warm-up, 1 at the last step."""
    span = jnp.maximum(hyper.steps - 1 - hyper.warmup, 1.0)
    return jnp.clip((step - hyper.warmup) / span, 0.0, 1.0)


def cosine(step, hyper):
    """Half a cosine from 1 to final_lr (Loshchilov and Hutter, arXiv 1608.03983)."""
    progress = _progress(step, hyper)
    return hyper.final_lr + (1 - hyper.final_lr) * 0.5 * (
        1 + jnp.cos(jnp.pi * progress)
    )


def linear(step, hyper):
    """A line from 1 to final_lr; to 0 it is the best of many (arXiv 2310.07831)."""
    return 1 - (1 - hyper.final_lr) * _progress(step, hyper)


def wsd(step, hyper):
    """1, then 1 - (1 - final_lr) sqrt(progress) over the last `decay` steps.

    Warm-up, stable, decay: arXiv 2404.06395; this form, 1 - sqrt: arXiv 2405.18392.
    """
    start = hyper.steps - 1 - hyper.decay
    progress = jnp.clip((step - start) / jnp.maximum(hyper.decay, 1.0), 0.0, 1.0)
    return 1 - (1 - hyper.final_lr) * jnp.sqrt(progress)


def constant(step, hyper):
    return 1.0


def inverse_sqrt(step, hyper):
    """sqrt(warmup / updates), 1 at the peak: Vaswani et al., arXiv 1706.03762."""
    peak = jnp.maximum(hyper.warmup, 1.0)
    return jnp.sqrt(peak / jnp.maximum(step + 1, peak))


SCHEDULES: dict[str, Callable] = {
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
}


def learning_rate(schedule: str, step, hyper):
    """Rate of the update that makes step + 1 of step; `hyper` is a lm.optim.Hyper."""
    return hyper.lr * warmup_factor(step, hyper) * SCHEDULES[schedule](step, hyper)
