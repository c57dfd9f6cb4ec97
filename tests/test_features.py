"""Feature maps and the division of linear attention, and fields that contradict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.mixers import MIXERS
from lm.mixers.linear_attention import elu, ratio, taylor
from tests.subjects import WIDTH, values


def test_a_ratio_of_large_sums_has_its_slopes():
    slopes = jax.grad(ratio, (0, 1))(jnp.float32(3e30), jnp.float32(1e30))
    np.testing.assert_allclose(slopes, (1e-30, -3e-30), 1e-6)


def test_elu_features_keep_their_digits_near_zero():
    np.testing.assert_allclose(elu(jnp.float32(-30)), np.exp(-30.0), 1e-5)
    assert jax.grad(elu)(jnp.float32(1e4)) == 1 and elu(jnp.float32(1e4)) == 10_001


def test_products_of_taylor_features_are_a_series_of_exp():
    q, k = (values(6, 4, seed=i) for i in range(2))
    s = q @ k.T / 2
    np.testing.assert_allclose(taylor(q) @ taylor(k).T, 1 + s + s**2 / 2, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("name", "field", "fields"),
    [
        ("gla", "key_expand", {"key_expand": 0.1}),
        ("gla", "value_expand", {"value_expand": 1.2}),
        ("gla", "gate_divisor", {"gate_divisor": 0.0}),
        ("retnet", "value_expand", {"value_expand": 0.0}),
        ("retnet", "heads", {"heads": 16}),
    ],
)
def test_a_field_that_cannot_hold_is_named(name, field, fields):
    mixer = MIXERS[name](WIDTH, 1, jnp.float32, **fields)
    assert mixer.contradiction()[0] == field
    assert MIXERS[name](WIDTH, 1, jnp.float32).contradiction() is None
