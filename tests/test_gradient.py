"""The training step: the gradient of a mean over tokens, and of nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from lm import optim, step
from lm.data import Batch
from lm.sequence import from_segments
from tests.subjects import QUICK, VOCAB, close, language_model, same, tokens

IDS = np.array(
    [[1] * 16, [1] * 5 + [2] * 11, [1] * 15 + [2], [1] * 3 + [2] * 4 + [0] * 9]
)


def batch() -> Batch:
    """Four rows with borders of documents and padding; their weights are 0."""
    text = tokens(4, 17, seed=3)
    seq = from_segments(IDS)
    after = np.concatenate([IDS[:, 1:], IDS[:, -1:]], 1)
    weights = (seq.valid & (after == IDS)).astype(np.float32)
    weights[3, 6] = 0  # the last token of a padded row has no target
    return Batch(text[:, :-1], text[:, 1:], weights, seq)


def whole(config, **changes):
    """Hyper of a run of 100 steps."""
    hyper = optim.hyper(config, 100, 0)
    return hyper._replace(**{k: jnp.float32(v) for k, v in changes.items()})


@functools.cache
def start(**changes):
    model, config = language_model(("lstm", "attention"), **changes)
    make = functools.partial(step.initial_state, model, config)
    return model, config, jax.jit(make, compiler_options=QUICK)(0)


@functools.cache
def compiled(micro_batches: int, **changes):
    model, config, _ = start(**changes)
    run = functools.partial(step.train_step, model, config, micro_batches)
    return jax.jit(run, compiler_options=QUICK)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_gradient_is_that_of_the_mean_over_tokens(micro_batches):
    model, config, state = start()
    rows = batch()

    def mean(params):
        state = model.initial_state(4, 0)
        logits, _ = model.apply({"params": params}, rows.tokens, rows.seq, state)
        log_p = jnp.log(jax.nn.softmax(logits))
        nats = -jnp.sum(log_p * jax.nn.one_hot(rows.targets, VOCAB), -1)
        return jnp.sum(nats * rows.weights) / jnp.sum(rows.weights)

    grad = jax.jit(jax.value_and_grad(mean), compiler_options=QUICK)
    value, grads = grad(state.params)
    new, metrics = compiled(micro_batches)(state, rows, whole(config, clip=1e9))
    # The first moments of a first update are (1 - b1) times the gradient.
    got = jax.tree.map(lambda m: m / (1 - config.optim.b1), new.optimizer.mu)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    scaled = lambda tree: jax.tree.map(lambda g: g / largest, tree)
    close(scaled(got), scaled(grads), 1e-5)
    np.testing.assert_allclose(metrics["loss"], value, 1e-6)
    assert new.step == 1


def test_targets_of_weight_0_have_no_influence():
    _, config, state = start()
    rows, hyper = batch(), whole(config)
    targets, text = rows.targets.copy(), rows.tokens.copy()
    targets[rows.weights == 0] = (targets[rows.weights == 0] + 1) % VOCAB
    text[~rows.seq.valid] = (text[~rows.seq.valid] + 1) % VOCAB
    want = compiled(1)(state, rows, hyper)
    changed = rows._replace(tokens=text, targets=targets)
    assert (changed.targets != rows.targets).sum() == (rows.weights == 0).sum() > 10
    same(compiled(1)(state, changed, hyper), want)
    weighted = rows._replace(weights=np.ones_like(rows.weights))
    assert compiled(1)(state, weighted, hyper)[1]["loss"] != want[1]["loss"]


def test_a_bfloat16_model_trains_float32_parameters():
    model, config, state = start(dtype="bfloat16")
    assert model.dtype == jnp.bfloat16
    losses = []
    for _ in range(30):
        state, metrics = compiled(1, dtype="bfloat16")(state, batch(), whole(config))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.5
    dtypes = {x.dtype for x in jax.tree.leaves((state.params, state.optimizer.nu))}
    assert dtypes == {np.dtype(np.float32)}


def products(jaxpr) -> list:
    """The matrix products of a jaxpr, in whatever it calls too."""
    found = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    inner = [core.jaxprs_in_params(e.params) for e in jaxpr.eqns]
    return found + [e for calls in inner for call in calls for e in products(call)]


def test_every_product_is_as_precise_as_the_config_says():
    model, config, state = start()
    run = functools.partial(step.train_step, model, config, 1)
    jaxpr = jax.make_jaxpr(run)(state, batch(), whole(config)).jaxpr
    precisions = {e.params["precision"] for e in products(jaxpr)}
    assert len(products(jaxpr)) > 20
    assert precisions == {(jax.lax.Precision.HIGHEST,) * 2}
