"""AWD-LSTM: the step of a plain stack of LSTM layers is torch's, mask by mask.

torch.nn.LSTM under Merity et al. 2018 (arXiv 1708.02182): masks on words, inputs,
hidden states, recurrent weights and outputs, AR and TAR, one matrix at both ends.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lm import config as configs
from lm import dropout, layers, optim, sequence
from lm import model as models
from lm import step as steps
from lm.data.loader import Batch
from lm.dropout import Dropout
from tests.oracles import B, T
from tests.subjects import QUICK, VOCAB, close, language_model, tokens

LAYERS = 3
RATES = {
    "model.word_dropout": 0.2,
    "model.embedding_dropout": 0.4,
    "model.residual_dropout": 0.3,
    "model.output_dropout": 0.5,
    "model.mixers.lstm.weight_dropout": 0.4,
}
PENALTIES = {"loss.ar": 2.0, "loss.tar": 1.0}
STACK = {"block": "plain", "mlp": "none", "norm": "none"}
LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def masks(config, step: int) -> dict[str, np.ndarray]:
    """What each dropout of a step multiplies, by name; those of layers are stacked."""
    key = layers.fold(jax.random.key(config.seed), step, steps.DROPOUT)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(B))
    seq = sequence.full(B, T)._replace(key=keys_B, step_key=key)
    m, D = config.model, config.model.width
    x, kernel = jnp.ones((B, T, D)), jnp.ones((D, 4 * D))
    drop = lambda rate, role, seq=seq: Dropout(rate, m.dropout_mask)(x, seq, role)
    rate = m.mixers.lstm.weight_dropout
    each = [seq._replace(layer=i) for i in range(LAYERS)]
    found = {
        "word": dropout.words(x, tokens(B), m.word_dropout, seq),
        "embedding": drop(m.embedding_dropout, "embedding"),
        "output": drop(m.output_dropout, "output"),
        "mixer": [drop(m.residual_dropout, "mixer", s) for s in each],
        "weight": [
            dropout.connections(kernel, rate, s, "recurrent_kernel") for s in each
        ],
    }
    return jax.tree.map(np.asarray, found)


def reference(params, masks, penalties, weights_BxT):
    """(nats, objective, gradients by name as in `params`), in torch and float64."""
    named = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    masks = jax.tree.map(torch.from_numpy, masks)
    x = named["embedding"][torch.from_numpy(tokens(B)).long()]
    x = x * masks["word"] * masks["embedding"]
    D = x.shape[-1]
    for i in range(LAYERS):
        lstm = torch.nn.LSTM(D, D, batch_first=True, dtype=torch.float64)
        own = {f"{name}_l0": named[f"{name}_{i}"] for name in LSTM[:3]}
        own["bias_hh_l0"] = torch.zeros(4 * D, dtype=torch.float64)
        own["weight_hh_l0"] = own["weight_hh_l0"] * masks["weight"][i].T
        x, _ = torch.func.functional_call(lstm, own, (x,))
        if i < LAYERS - 1:
            x = x * masks["mixer"][i]
    h, x = x, x * masks["output"]
    logits = x @ named["embedding"].T
    targets = torch.from_numpy(tokens(B, seed=1)).long()
    weights = torch.tensor(weights_BxT, dtype=torch.float64)
    nats = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, reduction="none"
    )
    nats = (nats * weights).sum() / weights.sum()
    ar, tar = penalties
    change = torch.diff(h, dim=1).square().mean(-1)
    objective = nats + ar * (x.square().mean(-1) * weights).sum() / weights.sum()
    objective += tar * (change * weights[:, 1:]).sum() / weights.sum()
    objective.backward()
    return nats.item(), objective.item(), {k: p.grad.numpy() for k, p in named.items()}


def in_torch(tree) -> dict[str, np.ndarray]:
    """Our parameters, or their gradients, by torch's names."""
    found = {"embedding": np.asarray(tree["embedding"], np.float64)}
    for i in range(LAYERS):
        mixer = jax.tree.map(lambda x, i=i: x[i], tree["units"]["block_0"]["mixer"])
        found |= {
            f"weight_ih_{i}": np.asarray(mixer["input"]["kernel"].T, np.float64),
            f"weight_hh_{i}": np.asarray(mixer["recurrent_kernel"].T, np.float64),
            f"bias_ih_{i}": np.asarray(mixer["bias"], np.float64),
        }
    return found


@pytest.mark.parametrize("mask", ["token", "sequence"])
@pytest.mark.parametrize(("rates", "penalties"), [({}, {}), (RATES, PENALTIES)])
def test_a_step_is_that_of_torch(rates, penalties, mask):
    _, config = language_model(("lstm",), LAYERS, **STACK, dropout_mask=mask)
    config = configs.override(config, rates | penalties | {"optim.clip": 1e6})
    config = configs.resolve(config)
    model = models.build(config, VOCAB)
    weights = np.random.default_rng(0).random((B, T)).astype(np.float32)
    batch = Batch(tokens(B), tokens(B, seed=1), weights, sequence.full(B, T))
    hyper = optim.hyper(config, 10, 2)
    start = jax.jit(lambda: steps.initial_state(model, config, 0))()
    step = lambda state: steps.train_step(model, config, 1, state, batch, hyper)
    state, metrics = jax.jit(step, compiler_options=QUICK)(start)
    want = reference(
        in_torch(start.params),
        jax.tree.map(lambda x: x.astype(np.float64), masks(config, 0)),
        (config.loss.ar, config.loss.tar),
        weights,
    )
    got = (metrics["loss"], metrics.get("objective", metrics["loss"]))
    close(got, want[:2])
    grads = jax.tree.map(lambda mu: mu / (1 - config.optim.b1), state.optimizer.mu)
    for name, got in in_torch(grads).items():
        size = np.abs(want[2][name]).max()
        close(got / size, want[2][name] / size)
    assert np.isclose(want[0], want[1]) == (not penalties)
