"""Learning rates at the steps that matter, by hand and by optax's schedules."""

import jax
import numpy as np
import optax
import pytest

from lm import optim
from lm.schedules import SCHEDULES, learning_rate
from tests import runs

STEPS, WARMUP, DECAY, LAST = 20, 4, 5, 19


def hyper(warmup: int = WARMUP, decay: int = DECAY):
    return optim.hyper(runs.config(optim__lr=0.5), STEPS, warmup, decay)


# step -> rate, over a warm-up of 4 of 20 updates with final_lr = 0.1 and lr = 0.5.
WARMING = {0: 0.125, 1: 0.25, 2: 0.375, 3: 0.5}
BY_HAND = {
    "cosine": {4: 0.5, 11.5: 0.275, LAST: 0.05, LAST + 9: 0.05},
    "linear": {4: 0.5, 7: 0.41, 11.5: 0.275, LAST: 0.05, LAST + 9: 0.05},
    "wsd": {
        4: 0.5,
        14: 0.5,
        15: 0.5 - 0.45 * 0.2**0.5,
        18: 0.5 - 0.45 * 0.8**0.5,
        LAST: 0.05,
        LAST + 9: 0.05,
    },
    "constant": {4: 0.5, LAST: 0.5},
    "inverse_sqrt": {4: 0.5 * 0.8**0.5, 15: 0.25, 63: 0.125},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_at_the_steps_that_matter(name):
    rate = jax.jit(lambda step, hyper: learning_rate(name, step, hyper))
    for step, value in (WARMING | BY_HAND[name]).items():
        np.testing.assert_allclose(rate(step, hyper()), value, 1e-6, err_msg=step)
    falling = [float(rate(step, hyper())) for step in range(WARMUP, STEPS)]
    assert falling == sorted(falling, reverse=True)
    at_once = float(rate(0, hyper(warmup=0)))
    np.testing.assert_allclose(at_once, 0.5, 1e-6)


AFTER = STEPS - 1 - WARMUP
OPTAX = {
    "cosine": optax.cosine_decay_schedule(0.5, AFTER, 0.1),
    "linear": optax.linear_schedule(0.5, 0.05, AFTER),
    "constant": optax.constant_schedule(0.5),
}


@pytest.mark.parametrize("name", OPTAX)
def test_rates_are_those_of_optax(name):
    for step in range(WARMUP, STEPS):
        want = OPTAX[name](step - WARMUP)
        np.testing.assert_allclose(learning_rate(name, step, hyper()), want, 1e-6)


def test_a_stable_phase_without_decay_is_constant():
    rates = [float(learning_rate("wsd", s, hyper(decay=0))) for s in range(4, LAST)]
    np.testing.assert_allclose(rates, 0.5, 1e-6)


def test_other_lengths_do_not_compile_the_rate_again():
    traced = []

    @jax.jit
    def rate(step, hyper):
        traced.append(1)
        return learning_rate("wsd", step, hyper)

    values = {float(rate(17, hyper(decay=decay))) for decay in (2, 5, 10)}
    assert len(values) == 3 and len(traced) == 1
