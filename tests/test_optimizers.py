"""Every optimiser: parity with optax's chain, Muon's matrices, what is evaluated."""

import contextlib
import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lm import averages, evaluate, optim, parameters, restore, train
from lm import config as configs
from lm.checkpoint import Checkpoints
from lm.mixers import MIXERS
from lm.optimizers import OPTIMIZERS, RMS
from lm.program import program
from tests import runs
from tests.subjects import VARIANTS, close, language_model, same, values

OPTIM = dict(lr=0.05, weight_decay=0.3, final_lr=0.1, clip=1.0, schedule="cosine")
OPTIM |= dict(b1=0.9, b2=0.95, eps=1e-8, momentum=0.8)
STEPS, WARMUP = 12, 3
PARAMS = {
    "embedding": values(5, 3),
    "norm": {"scale": values(3)},
    "mixer": {"wide": {"kernel": values(3, 7)}, "tall": {"kernel": values(6, 3)}},
}
DECAYS = {
    "embedding": False,
    "norm": {"scale": False},
    "mixer": {"wide": {"kernel": True}, "tall": {"kernel": True}},
}


def settings(name: str):
    loss = SimpleNamespace(label_smoothing=0.0, z_loss=0.0, ar=0.0, tar=0.0)
    return SimpleNamespace(optim=SimpleNamespace(**OPTIM, name=name), loss=loss, seed=0)


def rates(step):
    after = optax.cosine_decay_schedule(OPTIM["lr"], STEPS - 1 - WARMUP, 0.1)
    warm = OPTIM["lr"] * (step + 1) / WARMUP
    return jnp.where(step < WARMUP, warm, after(step - WARMUP))


def muon():
    """optax's for matrices; its Adam, of the others, would be Nesterov's."""
    ours = contrib.muon(rates, beta=0.8, weight_decay=0.3, consistent_rms=RMS)
    return optax.partition({True: ours, False: optax.adam(rates, 0.9, 0.95)}, DECAYS)


def schedule_free():
    base = optax.chain(
        optax.scale_by_rms(0.95, 1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(0.3, DECAYS),
        optax.scale_by_learning_rate(rates),
    )
    # Its count starts from 1, that of the base from 0.
    return contrib.schedule_free(base, lambda count: rates(count - 1), 0.9)


REFERENCES = {
    "adamw": lambda: optax.adamw(rates, 0.9, 0.95, weight_decay=0.3, mask=DECAYS),
    "muon": muon,
    "lion": lambda: optax.lion(rates, 0.9, 0.95, weight_decay=0.3, mask=DECAYS),
    "sgd": lambda: optax.chain(
        optax.trace(0.8),
        optax.add_decayed_weights(0.3, DECAYS),
        optax.scale_by_learning_rate(rates),
    ),
    "schedule_free": schedule_free,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_plain_chain_of_optax(name):
    reference = optax.chain(optax.clip_by_global_norm(1.0), REFERENCES[name]())
    config = settings(name)
    want, want_state = PARAMS, reference.init(PARAMS)
    got, got_state = PARAMS, optim.init(config, PARAMS)
    hyper = optim.hyper(config, STEPS, WARMUP)
    theirs = jax.jit(reference.update)
    ours = jax.jit(lambda *args: optim.update(config, *args, hyper))
    for step in range(STEPS):
        grads = jax.tree.map(lambda x, k=step: values(*x.shape, seed=k), PARAMS)
        updates, want_state = theirs(grads, want_state, want)
        want = optax.apply_updates(want, updates)
        got, got_state, _ = ours(grads, got_state, got, step)
        # Five products of Newton and Schulz multiply the rounding of a gradient.
        close(got, want, (2e-5 if name == "muon" else 1e-6) * (step + 1))
    for start, end in zip(*map(jax.tree.leaves, (PARAMS, got)), strict=True):
        assert np.abs(start - end).max() > 0.02
    if name == "schedule_free":
        mine = {"params": got, "optimizer/z": got_state.z}.__getitem__
        average = contrib.schedule_free_eval_params(want_state[1], want)
        close(OPTIMIZERS[name](config.optim).evaluated(mine), average, 1e-4)


def test_an_update_of_muon_has_singular_values_near_one_and_the_rms_of_adam():
    config = settings("muon")
    config.optim.weight_decay = 0.0
    hyper = optim.hyper(config, STEPS, 0)._replace(lr=np.float32(1.0))
    stacked = {"units": {"mixer": {"kernel": np.zeros((2, 40, 16, 24), np.float32)}}}
    grads = jax.tree.map(lambda x: values(*x.shape), stacked)
    state = optim.init(config, stacked)
    new, _, _ = optim.update(config, grads, state, stacked, 0, hyper)
    update_RxHxKxV = -np.asarray(new["units"]["mixer"]["kernel"])
    singular = np.linalg.svd(update_RxHxKxV / (RMS * 24**0.5), compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.3
    rms = np.sqrt(np.mean(update_RxHxKxV**2, (-1, -2)))
    np.testing.assert_allclose(rms, RMS, rtol=0.15)


# What Muon leaves to Adam, and what it orthogonalises, of all that is registered.
NAMES = {
    "vector": """
        embedding positions_embedding head_kernel scale bias A_log B C D decay
        conv_kernel conv_bias dt_bias gates_bias candidate_bias beta/kernel
        decay_gate/kernel gates/kernel score_kernel sink_bias norm_scale norm_bias
        mix_scale bonus_scale kappa_scale rate_scale skip_scale shift_scale
        lower_bounds_N input_gate_bias recurrence_gate_bias key_map_bias query_map_bias
        decay_lora_bias rate_lora_bias value_lora_bias
    """,
    "matrix": """
        input/kernel output/kernel recurrent_kernel qkv/kernel query/kernel key/kernel
        value/kernel q/kernel k/kernel v/kernel gate/kernel forget/kernel
        output_gate/kernel wi/kernel wg/kernel wo/kernel up/kernel down/kernel
        selection/kernel dt/kernel decay/kernel decay_rank/kernel receptance/kernel
        q_kernel k_kernel v_kernel input_gate_kernel
        recurrence_gate_kernel forget_gate_kernel output_gate_kernel cell_input_kernel
        key_map_kernel query_map_kernel decay_lora_up decay_lora_down rate_lora_up
        rate_lora_down value_lora_up value_lora_down gate_lora_up gate_lora_down
    """,
}
KINDS = {name: kind for kind, names in NAMES.items() for name in names.split()}
BLOCKS = (
    ("attention", dict(block="parallel", mlp="gelu", bias=True, position="learned")),
    ("attention", dict(block="rwkv", mlp="none", bias=True, tied=False)),
    ("attention", dict(conv_width=3)),
    ("mlstm_conv", dict(block="xlstm", mlp="geglu", bias=True, norm="layernorm")),
)


def short(path: str) -> str:
    """The end of a path that says what a leaf is."""
    *_, module, name = ("", *path.split("/"))
    if name == "kernel":
        return f"{module}/{name}"
    return re.sub(r".*(lower_bounds)_\d+$", r"\1_N", name)


@pytest.mark.parametrize(
    "name, changes", [(name, {}) for name in (*MIXERS, *VARIANTS)] + list(BLOCKS)
)
def test_every_leaf_is_named_orthogonalised_or_adams(name, changes):
    model, _ = language_model((name,), 2, **changes)
    stacked = jax.eval_shape(model.initial_params, 0)
    alone = jax.eval_shape(model.unrolled().initial_params, 0)
    for params in (stacked, alone):
        trees = parameters.paths(params), parameters.kinds(params)
        for path, kind in zip(*map(jax.tree.leaves, trees), strict=True):
            assert KINDS[short(path)] == kind, path
    trees = alone, parameters.kinds(alone)
    for leaf, kind in zip(*map(jax.tree.leaves, trees), strict=True):
        assert kind == "vector" or leaf.ndim >= 2


def test_schedule_frees_average_is_what_is_evaluated_and_started_from(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    keys = dict(optim__name="schedule_free", optim__schedule="constant")
    config = runs.config(**keys)
    result = train.run(config, first)
    abstract = program(config, 256).abstract
    with contextlib.closing(Checkpoints(first / "checkpoints", 2)) as checkpoints:
        state, _ = checkpoints.restore(6, abstract)
    average = averages.evaluated(config, state)
    params = restore.load(first)[2]
    same(params, average)
    assert np.abs(params["embedding"] - state.params["embedding"]).max() > 1e-4
    again = evaluate.run(first, "test", ("window",))["window"]
    assert again["nats"] == result["test"]["window"]["nats"]

    train.run(runs.config(train__init_from=str(first), optim__lr=1e-30), second)
    close(restore.load(second)[2], average, 1e-7)


def test_a_run_of_before_optimisers_had_names_is_read_as_adamw():
    values = runs.config().to_dict()
    del values["optim"]["name"]
    state = SimpleNamespace(params={"kernel": 1.0}, optimizer=())
    config = configs.from_json(json.dumps(values))
    assert averages.evaluated(config, state) is state.params
