"""The training step: micro-batches summed, divided once, one update.

With train.state = "carry" it is one of truncated backpropagation through time: a row
starts from the state that the one before it in the text ended with, as a constant.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm import averages, layers, loss, optim, sharding

DROPOUT = "dropout"


class TrainState(NamedTuple):
    """What a checkpoint holds; no random state: every draw follows (seed, step)."""

    params: Any
    optimizer: Any
    step: jax.Array
    carried: Any = ()  # the recurrent state of every row, with train.state = "carry"
    average: Any = ()  # of the parameters, with train.average


# train.state -> (model, rows, context) -> TrainState.carried before the first step.
# Attention keeps as many tokens as a batch has: Dai et al. 2019, arXiv 1901.02860.
CARRIED: dict[str, Callable] = {
    "reset": lambda model, rows, context: (),
    "carry": lambda model, rows, context: model.initial_state(rows, context),
}


def initial_state(model, config, seed) -> TrainState:
    """Parameters, moments and step 0; jit it, so that there is one path to them."""
    return start(model, config, model.initial_params(seed))


def start(model, config, params) -> TrainState:
    """The state before the first update of these parameters."""
    context = config.data.context
    rows = config.train.batch_tokens // context
    carried = CARRIED[config.train.state](model, rows, context)
    average = averages.start(config, params)
    optimizer = optim.init(config, params)
    return TrainState(params, optimizer, jnp.int32(0), carried, average)


def _micro(batch, count: int, axis: int = 0):
    """[B, ...] -> [count, B / count, ...], dealt out so that no row changes device.

    axis: that of B; the new one is the first.
    """
    split = lambda s: (*s[:axis], s[axis] // count, count, *s[axis + 1 :])
    deal = lambda x: jnp.moveaxis(x.reshape(split(x.shape)), axis + 1, 0)
    return jax.tree.map(deal, batch)


def _whole(x, axis: int):
    """The inverse of `_micro`, of one array."""
    x = jnp.moveaxis(x, 0, axis + 1)
    size = x.shape[axis] * x.shape[axis + 1]
    return x.reshape(*x.shape[:axis], size, *x.shape[axis + 2 :])


def train_step(model, config, micro_batches: int, state: TrainState, batch, hyper):
    """One update of `state` on `batch` -> (state, metrics).

    What is minimised is the sum of the objective over all tokens divided by the sum of
    their weights, so neither micro-batches nor devices enter it. In the metrics "loss"
    is the plain cross-entropy, and "objective" stands beside it where it is another.
    """
    # Here too: backward passes of custom gradients are traced outside of the model.
    with jax.default_matmul_precision(model.matmul_precision):
        return _train_step(model, config, micro_batches, state, batch, hyper)


def _train_step(model, config, micro_batches: int, state: TrainState, batch, hyper):
    B = batch.tokens.shape[0]
    terms, penalties = loss.chosen(config, hyper)
    key = layers.fold(jax.random.key(hyper.seed), state.step, DROPOUT)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(B))

    def objective(params, batch, keys_B, carried):
        seq = batch.seq._replace(key=keys_B, step_key=key)
        before = carried or model.initial_state(batch.tokens.shape[0], 0)
        (x_BxTxD, head_VxD, after), output = model.apply(
            {"params": params}, batch.tokens, seq, before, method="activations"
        )
        inputs = (x_BxTxD, head_VxD, batch.targets, batch.weights)
        value, sums = loss.cross_entropy(*inputs, terms, cap=model.logit_cap)
        if any(given is not None for given in penalties):
            value += loss.penalty(*output, batch.seq, batch.weights, penalties)
        return value, (sums, after if carried else ())

    # Of the parameters alone: so no gradient crosses the border of a batch.
    slope = jax.value_and_grad(objective, has_aux=True)

    def add(total, micro):
        (value, (sums, carried)), grads = slope(state.params, *micro)
        return jax.tree.map(jnp.add, total, (value, sums, grads)), carried

    if micro_batches == 1:
        (value, (sums, carried)), grads = slope(
            state.params, batch, keys_B, state.carried
        )
    else:
        zero = jax.tree.map(jnp.zeros_like, state.params)
        total = (jnp.float32(0), (jnp.float32(0), jnp.float32(0)), zero)
        deal = lambda x, axis: _micro(x, micro_batches, axis)
        carried = sharding.by_rows(deal, state.carried)
        micro = (*_micro((batch, keys_B), micro_batches), carried)
        (value, sums, grads), carried = jax.lax.scan(add, total, micro)
        carried = sharding.by_rows(_whole, carried)
    sum_nats, sum_weights = sums
    grads = jax.tree.map(lambda g: g / sum_weights, grads)
    params, moments, metrics = optim.update(
        config, grads, state.optimizer, state.params, state.step, hyper
    )
    average = averages.update(config, state.average, params, state.step, hyper)
    # With the norm of the new parameters every way to diverge shows in the metrics.
    norm = optax.global_norm(params)
    metrics |= {"loss": sum_nats / sum_weights, "param_norm": norm}
    if any(given is not None for given in (*terms, *penalties)):
        metrics["objective"] = value / sum_weights
    metrics |= _extent(carried)
    new = TrainState(params, moments, state.step + 1, carried, average)
    return new, metrics


def _extent(carried) -> dict:
    """The largest magnitude in a carried state: a state can be lost and no loss yet."""
    leaves = [x for x in jax.tree.leaves(carried) if x.size]
    values = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    most = [jnp.abs(x).max().astype(jnp.float32) for x in values]
    return {"state_max": jnp.stack(most).max()} if most else {}


def jit_train_step(model, config, mesh, state_sharding, micro_batches: int):
    """The step compiled over the mesh: state donated, batch split by rows."""
    replicated = sharding.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, model, config, micro_batches),
        in_shardings=(state_sharding, sharding.rows(mesh), replicated),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )


def empty_state(model, params, rows: int, capacity: int):
    """The model's state before any token, on the devices of `params`."""
    return _empty_state(model, sharding.beside(params))(rows, capacity)


@functools.lru_cache(maxsize=16)
def _empty_state(model, placed):
    # One program, placed as what `forward` gives back: else both compile again.
    return jax.jit(model.initial_state, static_argnums=(0, 1), out_shardings=placed)


def forward(model, params, batch, state):
    """Nats of every token of a batch, [B, T], and the state after it."""
    logits_BxTxV, state = model.apply(
        {"params": params}, batch.tokens, batch.seq, state
    )
    return loss.nats(logits_BxTxV, batch.targets) * batch.weights, state


def scores(model, params, batch, state):
    """(nats, whether the likeliest token is the target), [B, T], of a batch."""
    logits_BxTxV, _ = model.apply({"params": params}, batch.tokens, batch.seq, state)
    nats_BxT = loss.nats(logits_BxTxV, batch.targets)
    return nats_BxT, jnp.argmax(logits_BxTxV, -1) == batch.targets
