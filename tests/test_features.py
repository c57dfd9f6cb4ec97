"""What fields do: feature maps, a division, selection, and those that contradict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import optim, sequence
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
    ("selection", "gate", "linear"),
    [("none", "none", True), ("input", "none", False), ("none", "silu", False)],
)
def test_mamba_is_linear_over_tokens_without_selection_and_gate(
    selection, gate, linear
):
    """Responses to two tokens add up, and are shifted as the tokens are.

    Of tokens apart, since the SiLU before the recurrence takes each alone. Any form is
    the same at all times; only without both does no token change what another does.
    """
    fields = {"selection": selection, "gate": gate, "conv_width": 1}
    mixer, T = MIXERS["mamba"](WIDTH, 1, jnp.float32, **fields), 12
    seq, state, key = sequence.full(1, T), mixer.initial_state(1, 0), jax.random.key(0)
    one, two = np.zeros((2, 1, T, WIDTH), np.float32)
    one[0, 2], two[0, 5] = values(2, WIDTH)
    params = mixer.init(key, one, seq._replace(key=key), state, {})["params"]
    params |= {"conv_bias": jnp.zeros_like(params["conv_bias"])}
    y = jax.jit(lambda x: mixer.apply({"params": params}, x, seq, state, {})[0])
    alone, size = y(one) + y(two), np.abs(y(one)).max()
    np.testing.assert_allclose(y(np.roll(one, 4, 1))[:, 4:], y(one)[:, :-4], 0, 1e-6)
    error = np.abs(y(one + two) - alone).max() / size
    assert error < 1e-6 if linear else error > 1e-3


def test_the_constants_of_mamba_are_born_as_those_of_s4d():
    mixer = MIXERS["mamba"](WIDTH, 1, jnp.float32, state_width=400, selection="none")
    seq, state, key = sequence.full(1, 1), mixer.initial_state(1, 0), jax.random.key(0)
    x = values(1, 1, WIDTH)
    params = mixer.init(key, x, seq._replace(key=key), state, {})["params"]
    assert (params["B"] == 1).all() and params["B"].shape == (400,)
    assert abs(params["C"].mean()) < 0.15 and abs(params["C"].std() - 1) < 0.1
    assert not {"selection", "dt"} & params.keys()
    groups = optim.groups({"mixer": params})["mixer"]
    assert {groups[name] for name in "BCD"} == {"no_decay"}


@pytest.mark.parametrize(
    ("name", "field", "fields"),
    [
        ("gla", "key_expand", {"key_expand": 0.1}),
        ("gla", "value_expand", {"value_expand": 1.2}),
        ("gla", "gate_divisor", {"gate_divisor": 0.0}),
        ("retnet", "value_expand", {"value_expand": 0.0}),
        ("retnet", "heads", {"heads": 16}),
        ("mamba", "dt_rank", {"selection": "none", "dt_rank": 2}),
    ],
)
def test_a_field_that_cannot_hold_is_named(name, field, fields):
    mixer = MIXERS[name](WIDTH, 1, jnp.float32, **fields)
    assert mixer.contradiction()[0] == field
    assert MIXERS[name](WIDTH, 1, jnp.float32).contradiction() is None
