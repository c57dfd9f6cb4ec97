"""The page of mixers is what the code says, and so are the sizes of states in it."""

import inspect
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import lm.mixers
import lm.ops
from lm.mixers import MIXERS
from tests import catalogue, oracles
from tests.subjects import VARIANTS, spec


def test_the_page_is_generated_from_what_is_here():
    assert catalogue.PAGE.read_text() == catalogue.page(), (
        f"{catalogue.PAGE.name} is old: run python -m tests.catalogue"
    )


def test_every_mixer_has_an_error_below_the_tolerance():
    errors = json.loads(catalogue.ERRORS.read_text())
    assert errors.keys() == MIXERS.keys()
    for name, error in errors.items():
        assert error <= (5e-5 if name == "mlstm" else oracles.TOLERANCE), name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", [*MIXERS, *VARIANTS])
def test_the_state_has_the_size_that_the_page_says(name, dtype):
    fields = spec(name)
    kind = fields.pop("kind")
    mixer = MIXERS[kind](48, 4, dtype, parent=None, **fields)
    for capacity in (0, 7, 1000):
        state = jax.eval_shape(lambda c=capacity: mixer.initial_state(1, c))
        numbers = sum(x.size for x in jax.tree.leaves(state))
        assert numbers == catalogue.STATE[kind][1](mixer, capacity)


def files(package):
    return sorted(Path(inspect.getfile(package)).parent.glob("*.py"))


@pytest.mark.parametrize("file", files(lm.mixers), ids=lambda file: file.name)
def test_a_mixer_is_short_and_has_no_loop_over_time(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 200
    loops = r"lax\.(scan|map|fori_loop|while_loop|associative_scan)|\bnn\.(scan|RNN)"
    assert not re.search(loops, text), "a loop over time belongs into lm/ops"


@pytest.mark.parametrize("file", files(lm.ops), ids=lambda file: file.name)
def test_an_op_has_no_parameters(file):
    text = file.read_text()
    assert not re.search(r"flax|lm\.layers|lm\.mixers|\.param\(|parameter\(", text)
