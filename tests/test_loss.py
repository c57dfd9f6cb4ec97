"""The loss made chunk by chunk is the plain one, and holds no more than a chunk."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lm
from lm import loss
from tests.subjects import QUICK, close, values

ROOT = Path(lm.__file__).parent.parent
B, T, D, V = 2, 11, 6, 17


def plain(x_BxTxD, head_VxD, targets_BxT, weights_BxT):
    logits_BxTxV = loss.logits(x_BxTxD, head_VxD)
    return loss.summed(logits_BxTxV, targets_BxT, weights_BxT)


def inputs(rows: int = B, dtype=np.float64):
    weights = np.random.default_rng(0).integers(0, 3, (rows, T)).astype(dtype)
    assert (weights == 0).any() and (weights == 2).any()
    targets = np.random.default_rng(1).integers(0, V, (rows, T)).astype(np.int32)
    x, head = 3 * values(rows, T, D), values(V, D, seed=1)
    return x.astype(dtype), head.astype(dtype), targets, weights


def graded(function, *arguments):
    """Values and gradients by the hidden states, the head and the weights."""
    by = jax.value_and_grad(function, (0, 1, 3), has_aux=True)
    return jax.jit(by, compiler_options=QUICK)(*arguments)


# Of each row in a chunk; 5 does not divide T, nor do the slices of the head V.
@pytest.mark.parametrize("tokens", [1, 2, 5, 11])
def test_chunks_are_the_plain_form(tokens):
    with jax.enable_x64(True):
        chunked = functools.partial(loss.cross_entropy, chunk=tokens * B * V * 8)
        arguments = inputs()
        value, gradients = graded(chunked, *arguments)
        close((value, gradients), graded(plain, *arguments), 1e-12)
        assert {g.dtype for g in gradients[:2]} == {jnp.dtype("float64")}
        weights = arguments[3]
        np.testing.assert_array_equal(gradients[0][weights == 0], 0)
        assert np.abs(gradients[0][weights > 0]).min() > 0


def test_the_gradient_is_scaled_by_what_follows():
    with jax.enable_x64(True):
        square = lambda form: lambda *a: (form(*a)[0] ** 2, 0)
        chunked = functools.partial(loss.cross_entropy, chunk=3 * B * V * 8)
        got, want = (graded(square(f), *inputs()) for f in (chunked, plain))
        close(got[1], want[1], 1e-9)


def test_bfloat16_is_summed_in_float32():
    *arguments, weights = inputs(dtype=jnp.bfloat16)
    arguments.append(weights.astype(np.float32))
    chunked = functools.partial(loss.cross_entropy, chunk=3 * B * V * 4)
    (value, _), gradients = graded(chunked, *arguments)
    assert value.dtype == jnp.float32
    assert [g.dtype for g in gradients] == ["bfloat16", "bfloat16", "float32"]
    (want, _), exact = graded(
        plain, *(np.asarray(a, np.float32) for a in arguments[:2]), *arguments[2:]
    )
    np.testing.assert_allclose(value, want, 1e-5)
    close(gradients, exact, 1e-2)


def test_what_is_held_beyond_the_gradients():
    rows, length, width, vocabulary = 8, 1024, 768, 50_257
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    i32 = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    arguments = f32(rows, length, width), f32(vocabulary, width), i32, f32(rows, length)
    by = jax.value_and_grad(loss.cross_entropy, (0, 1), has_aux=True)
    memory = jax.jit(by).lower(*arguments).compile().memory_analysis()
    print(memory.temp_size_in_bytes)
    assert memory.temp_size_in_bytes < 200e6


EIGHT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
import functools
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from lm import loss
from tests.subjects import close
from tests.test_loss import V, graded, inputs, plain

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
arguments = inputs(8)
# Of three tokens a row, on each device.
chunked = functools.partial(loss.cross_entropy, chunk=3 * V * 8)
by_rows = NamedSharding(mesh, PartitionSpec("data"))
everywhere = NamedSharding(mesh, PartitionSpec())
placed = [jax.device_put(a, everywhere if i == 1 else by_rows)
          for i, a in enumerate(arguments)]
got, want = graded(chunked, *placed), graded(plain, *arguments)
assert len(got[1][0].sharding.device_set) == 8
close(got, want, 1e-12)
print("the same")
"""


def test_eight_devices_share_the_chunks():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EIGHT]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "the same", done.stdout + done.stderr
