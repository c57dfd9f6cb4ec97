"""The loss made chunk by chunk is the plain one, and holds no more than a chunk."""

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lm
from lm import config as configs
from lm import loss, optim, program, sequence
from lm import step as steps
from lm.data.loader import Batch
from lm.loss import Terms
from tests.subjects import (
    LENGTH,
    QUICK,
    ROWS,
    close,
    language_model,
    same,
    tokens,
    values,
)

ROOT = Path(lm.__file__).parent.parent
B, T, D, V = 2, 11, 6, 17


def plain(x_BxTxD, head_VxD, targets, weights_BxT, terms=loss.PLAIN, cap=None):
    """The full form, from its definition: every distribution of V numbers is there."""
    logits_BxTxV = jnp.einsum("btd,vd->btv", x_BxTxD, head_VxD)
    if cap is not None:
        logits_BxTxV = cap * jnp.tanh(logits_BxTxV / cap)
    log_q_BxTxV = jax.nn.log_softmax(logits_BxTxV)
    p_BxTxV = targets if targets.ndim == 3 else jax.nn.one_hot(targets, V)
    entropy = lambda p_BxTxV: -jnp.sum(p_BxTxV * log_q_BxTxV, -1)
    nats_BxT = objective_BxT = entropy(p_BxTxV)
    smoothing, z_loss = terms
    if smoothing is not None:
        objective_BxT = entropy((1 - smoothing) * p_BxTxV + smoothing / V)
    if z_loss is not None:
        log_Z_BxT = jnp.log(jnp.sum(jnp.exp(logits_BxTxV), -1))
        objective_BxT += z_loss * log_Z_BxT**2
    nats = jnp.sum(nats_BxT * weights_BxT)
    return jnp.sum(objective_BxT * weights_BxT), (nats, jnp.sum(weights_BxT))


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


def distributions(rows: int = B, dtype=np.float64):
    """Of a teacher, [rows, T, V]."""
    p = np.exp(2 * values(rows, T, V, seed=2))
    return (p / p.sum(-1, keepdims=True)).astype(dtype)


TERMS = [Terms(s, z) for s, z in itertools.product((None, 0.1), (None, 1e-2))]


@pytest.mark.parametrize("tokens", [2, 11])  # 11: at once
@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("form", ["cross_entropy", "soft_cross_entropy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_objective_is_its_full_form(dtype, form, terms, tokens):
    with jax.enable_x64(dtype == np.float64):
        x, head, targets, weights = inputs(dtype=dtype)
        if form == "soft_cross_entropy":
            # A teacher's most likely alone: they need not sum to 1.
            targets = distributions(dtype=dtype)
            targets *= targets > np.median(targets)
        size = tokens * B * V * np.dtype(dtype).itemsize
        made = lambda *a: getattr(loss, form)(*a, terms, chunk=size)
        got = graded(made, x, head, targets, weights)
        want = graded(lambda *a: plain(*a, terms), x, head, targets, weights)
        (objective, (nats, _)), _ = want
        assert (objective == nats) == (terms == loss.PLAIN)
        close(got, want, 1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("tokens", [2, 11])  # 11: at once
@pytest.mark.parametrize("terms", [loss.PLAIN, TERMS[-1]], ids=str)
def test_a_cap_of_the_logits_is_in_every_form(terms, tokens):
    with jax.enable_x64(True):
        size, cap = tokens * B * V * 8, 1.5  # the logits reach beyond 10
        made = lambda *a: loss.cross_entropy(*a, terms, chunk=size, cap=cap)
        got = graded(made, *inputs())
        close(got, graded(lambda *a: plain(*a, terms, cap), *inputs()), 1e-12)
        x, head, *_ = inputs()
        assert np.abs(loss.logits(x, head)).max() > 10
        assert np.abs(loss.logits(x, head, cap)).max() < cap


@pytest.mark.parametrize("soft", [False, True])
def test_label_smoothing_is_that_of_torch(soft):
    x, head, targets, weights = inputs(dtype=np.float32)
    targets = distributions(dtype=np.float32) if soft else targets
    form = loss.soft_cross_entropy if soft else loss.cross_entropy
    ours = lambda *a: form(*a, Terms(0.3), chunk=2 * B * V * 4)
    (value, _), (g_x, g_head, _) = graded(ours, x, head, targets, weights)

    leaves = [torch.tensor(a, requires_grad=True) for a in (x, head)]
    logits_NxV = (leaves[0] @ leaves[1].T).reshape(-1, V)
    flat = torch.tensor(targets if soft else targets.astype(np.int64))
    nats_N = torch.nn.functional.cross_entropy(
        logits_NxV,
        flat.reshape(-1, V) if soft else flat.reshape(-1),
        reduction="none",
        label_smoothing=0.3,
    )
    total = (nats_N * torch.tensor(weights).reshape(-1)).sum()
    total.backward()
    close(value, total.detach().numpy(), 1e-6)
    close([g_x, g_head], [leaf.grad.numpy() for leaf in leaves], 1e-6)


def test_soft_targets_that_are_certain_are_targets():
    x, head, targets, weights = inputs(dtype=np.float32)
    one_hot = np.eye(V, dtype=np.float32)[targets]
    logits = loss.logits(x, head)
    close(loss.soft_nats(logits, one_hot), loss.nats(logits, targets), 1e-6)
    got = loss.soft_cross_entropy(x, head, one_hot, weights, chunk=2 * B * V * 4)
    close(got, loss.cross_entropy(x, head, targets, weights), 1e-6)


def test_coefficients_of_zero_are_no_terms():
    *arguments, chunk = *inputs(dtype=np.float32), 2 * B * V * 4
    zero = lambda *a: loss.cross_entropy(*a, Terms(0.0, 0.0), chunk)
    none = lambda *a: loss.cross_entropy(*a, chunk=chunk)
    close(graded(zero, *arguments), graded(none, *arguments), 1e-6)
    (objective, (nats, _)), _ = graded(none, *arguments)
    assert objective == nats


@pytest.mark.parametrize("mode", ["plain", "smoothing and z-loss", "soft"])
def test_what_is_held_beyond_the_gradients(mode):
    rows, length, width, vocabulary = 8, 1024, 768, 50_257
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    form, terms = loss.cross_entropy, Terms(0.1, 1e-4)
    if mode == "plain":
        terms = loss.PLAIN
    if mode == "soft":
        form, targets = loss.soft_cross_entropy, f32(rows, length, vocabulary)
    x, head = f32(rows, length, width), f32(vocabulary, width)
    by = jax.value_and_grad(lambda *a: form(*a, terms), (0, 1), has_aux=True)
    lowered = jax.jit(by).lower(x, head, targets, f32(rows, length))
    memory = lowered.compile().memory_analysis()
    print(memory.temp_size_in_bytes)
    assert memory.temp_size_in_bytes < 200e6


def with_loss(**coefficients):
    """(model, config) of a small model with such a section `loss`."""
    model, config = language_model(("attention",), 1, norm="none", output_dropout=0.1)
    changes = {f"loss.{name}": value for name, value in coefficients.items()}
    return model, configs.resolve(configs.override(config, changes))


def test_penalties_are_of_each_token_and_of_its_change():
    ids = [[1] * 7, [0, 1, 1, 2, 2, 0, 2], [1, 1, 1, 0, 0, 0, 0]]
    seq = sequence.from_segments(ids)
    h, dropped = values(3, 7, 5), values(3, 7, 5, seed=1)
    weights = np.abs(values(3, 7, seed=2)) * seq.valid
    want = 0.0
    for b, t in zip(*np.nonzero(seq.valid), strict=True):
        size = 2 * np.mean(dropped[b, t] ** 2)
        if t and ids[b][t - 1] == ids[b][t]:
            size += 3 * np.mean((h[b, t] - h[b, t - 1]) ** 2)
        want += weights[b, t] * size
    penalties = loss.Penalties(ar=2.0, tar=3.0)
    close(loss.penalty(h, dropped, seq, weights, penalties), want)
    close(loss.penalty(h, dropped, seq, weights, loss.Penalties()), 0.0)


def test_a_grid_of_coefficients_shares_one_program():
    of = lambda **terms: program.program(with_loss(**terms)[1], 11)
    assert of(z_loss=1e-4) is of(z_loss=1e-3)
    assert of(z_loss=1e-4) is not of(label_smoothing=0.1)
    assert of(z_loss=0.0) is not of(z_loss=1e-4)
    assert of(ar=1.0) is of(ar=2.0)


def test_a_step_minimises_the_objective_and_reports_both():
    seq = sequence.full(ROWS, LENGTH)
    weights = np.ones((ROWS, LENGTH), np.float32)
    batch = Batch(tokens(), tokens(seed=1), weights, seq)

    def update(micro_batches=1, **coefficients):
        model, config = with_loss(**coefficients)
        hyper = optim.hyper(config, 10, 2)

        def step():
            state = steps.initial_state(model, config, 0)
            return steps.train_step(model, config, micro_batches, state, batch, hyper)

        return jax.jit(step, compiler_options=QUICK)()[1]

    dry, wet = update(), update(label_smoothing=0.2, z_loss=0.1)
    assert "objective" not in dry
    same(wet["loss"], dry["loss"])
    assert abs(wet["objective"] - wet["loss"]) > 0.1
    assert abs(wet["grad_norm"] - dry["grad_norm"]) > 0.01
    close(update(3, label_smoothing=0.2, z_loss=0.1), wet, 2e-6)
    for name in ("ar", "tar"):
        penalised = update(**{name: 5.0})
        same(penalised["loss"], dry["loss"])
        assert penalised["objective"] - penalised["loss"] > 0.1
        assert abs(penalised["grad_norm"] - dry["grad_norm"]) > 0.01
        close(update(3, **{name: 5.0}), penalised, 2e-6)


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
