"""The training step: micro-batches summed, divided once, one update."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm import layers, loss, optim, sharding

DROPOUT = "dropout"


class TrainState(NamedTuple):
    """What a checkpoint holds; no random state: every draw follows (seed, step)."""

    params: Any
    optimizer: Any
    step: jax.Array


def initial_state(model, config, seed) -> TrainState:
    """Parameters, moments and step 0; jit it, so that there is one path to them."""
    params = model.initial_params(seed)
    return TrainState(params, optim.adam(config).init(params), jnp.int32(0))


def _micro(batch, count: int):
    """[B, ...] -> [count, B / count, ...], dealt out so that no row changes device."""
    deal = lambda x: jnp.moveaxis(
        x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0
    )
    return jax.tree.map(deal, batch)


def train_step(model, config, micro_batches: int, state: TrainState, batch, hyper):
    """One update of `state` on `batch` -> (state, metrics).

    The loss is the sum of nats over all tokens divided by the sum of their weights, so
    neither micro-batches nor devices enter it.
    """
    # Here too: backward passes of custom gradients are traced outside of the model.
    with jax.default_matmul_precision(model.matmul_precision):
        return _train_step(model, config, micro_batches, state, batch, hyper)


def _train_step(model, config, micro_batches: int, state: TrainState, batch, hyper):
    B = batch.tokens.shape[0]
    key = layers.fold(jax.random.key(hyper.seed), state.step, DROPOUT)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(B))

    def nats(params, batch, keys_B):
        seq = batch.seq._replace(key=keys_B)
        empty = model.initial_state(batch.tokens.shape[0], 0)
        x_BxTxD, head_VxD, _ = model.apply(
            {"params": params}, batch.tokens, seq, empty, method="hidden"
        )
        return loss.cross_entropy(x_BxTxD, head_VxD, batch.targets, batch.weights)

    def add(total, micro):
        value, grads = jax.value_and_grad(nats, has_aux=True)(state.params, *micro)
        return jax.tree.map(jnp.add, total, (value, grads)), None

    if micro_batches == 1:
        value, grads = jax.value_and_grad(nats, has_aux=True)(
            state.params, batch, keys_B
        )
    else:
        zero = jax.tree.map(jnp.zeros_like, state.params)
        total = ((jnp.float32(0), jnp.float32(0)), zero)
        micro = _micro((batch, keys_B), micro_batches)
        (value, grads), _ = jax.lax.scan(add, total, micro)
    sum_nats, sum_weights = value
    grads = jax.tree.map(lambda g: g / sum_weights, grads)
    params, moments, metrics = optim.update(
        config, grads, state.optimizer, state.params, state.step, hyper
    )
    # With the norm of the new parameters every way to diverge shows in the metrics.
    norm = optax.global_norm(params)
    metrics |= {"loss": sum_nats / sum_weights, "param_norm": norm}
    return TrainState(params, moments, state.step + 1), metrics


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
