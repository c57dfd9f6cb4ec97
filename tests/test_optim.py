"""AdamW by parameter name: groups, decay, schedules, and equality with optax."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm import config as configs
from lm import optim, parameters
from lm.mixers import MIXERS
from lm.optimizers import OPTIMIZERS
from lm.program import program
from tests.subjects import QUICK, close, initial, language_model, same, values
from tests.toys import Leaky

# A wide rate and decay, so that an error of a thousandth in either would show.
OPTIM = dict(lr=0.1, weight_decay=0.3, final_lr=0.1, clip=1.0)
OPTIM |= dict(schedule="cosine", b1=0.9, b2=0.95, eps=1e-8, name="adamw", momentum=0.9)
STEPS, WARMUP = 20, 4


def settings(seed=0, **changes):
    loss = SimpleNamespace(label_smoothing=0.0, z_loss=0.0, ar=0.0, tar=0.0)
    optim = SimpleNamespace(**OPTIM | changes)
    return SimpleNamespace(optim=optim, loss=loss, seed=seed)


def hyper(**changes):
    return optim.hyper(settings(**changes), STEPS, WARMUP)


def leaves(tree) -> dict:
    """{path: leaf}."""
    return dict(zip(*map(jax.tree.leaves, (parameters.paths(tree), tree)), strict=True))


def noisy(tree, seed: int, scale: float = 1.0):
    """Normal values in the shapes of a tree."""
    shapes, form = jax.tree.flatten(tree)
    draw = lambda i, x: scale * values(*x.shape, seed=100 * seed + i)
    return form.unflatten([draw(i, x) for i, x in enumerate(shapes)])


@functools.cache
def everything():
    """Parameters of every kind: two mixers, biases, positions, a head of its own."""
    changes = dict(norm="layernorm", bias=True, position="learned", tied=False)
    model, _ = language_model(("rglru", "attention_plain"), 4, **changes)
    return model, initial(model)


def test_groups_follow_names():
    _, params = everything()
    kernels = {"kernel", "conv_kernel", "head_kernel"}
    kernels |= {"input_gate_kernel", "recurrence_gate_kernel"}
    others = {"bias", "conv_bias", "input_gate_bias", "recurrence_gate_bias"}
    others |= {"scale", "embedding", "positions_embedding", "decay"}
    groups = leaves(optim.groups(params))
    names = {path.rpartition("/")[2] for path in groups}
    assert names == kernels | others
    for path, group in groups.items():
        decays = path.rpartition("/")[2] in kernels
        assert group == ("decay" if decays else "no_decay"), path


def test_a_parameter_without_a_group_is_named():
    tree = {"units": {"block_0": {"mixer": {"weight": np.ones(3)}}}}
    with pytest.raises(ValueError, match="units/block_0/mixer/weight"):
        optim.groups(tree)


def test_a_mixer_decides_on_its_own_parameters(monkeypatch):
    class Own(Leaky):
        parameter_groups = ((r"/weight$", "decay"), (r"/slow_kernel$", "no_decay"))

    monkeypatch.setitem(MIXERS, "own", Own)
    tree = {"mixer": {"weight": 0.0, "slow_kernel": 0.0, "fast_kernel": 0.0}}
    want = {"weight": "decay", "slow_kernel": "no_decay", "fast_kernel": "decay"}
    assert optim.groups(tree) == {"mixer": want}


def test_without_gradients_kernels_alone_shrink():
    _, params = everything()
    params = jax.tree.map(lambda p: p + 0.5, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = optim.init(settings(), params)
    run = functools.partial(optim.update, settings())
    update = jax.jit(run, compiler_options=QUICK)
    new, _, metrics = update(zeros, start, params, 7, hyper())
    factor = 1 - float(metrics["lr"]) * OPTIM["weight_decay"]
    assert 0.9 < factor < 0.99
    old, groups = leaves(params), leaves(optim.groups(params))
    for path, leaf in leaves(new).items():
        if groups[path] == "decay":
            np.testing.assert_allclose(leaf, old[path] * factor, 1e-6, err_msg=path)
        else:
            np.testing.assert_array_equal(leaf, old[path], err_msg=path)
    assert set(groups.values()) == {"decay", "no_decay"}


def test_the_fast_group_moves_twice_as_far():
    params = {"decay_lora_bias": jnp.ones(3), "rate_lora_bias": jnp.ones(3)}
    assert set(optim.groups(params).values()) == {"fast", "no_decay"}
    start = optim.init(settings(), params)
    new, _, _ = optim.update(settings(), params, start, params, 7, hyper())
    moved = {name: 1 - np.asarray(leaf) for name, leaf in new.items()}
    assert (moved["rate_lora_bias"] > 1e-3).all()
    twice = 2 * moved["rate_lora_bias"]
    np.testing.assert_allclose(moved["decay_lora_bias"], twice, 1e-5)


def rates(step):
    """The schedule written with optax's."""
    after = optax.cosine_decay_schedule(0.1, STEPS - 1 - WARMUP, OPTIM["final_lr"])
    return jnp.where(step < WARMUP, 0.1 * (step + 1) / WARMUP, after(step - WARMUP))


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_updates_are_those_of_optax(scale):
    params = {
        "embedding": values(5, 3),
        "norm": {"scale": values(3)},
        "units": {"mixer": {"kernel": values(2, 3, 4), "decay": values(2, 4)}},
    }
    mask = {
        "embedding": False,
        "norm": {"scale": False},
        "units": {"mixer": {"kernel": True, "decay": False}},
    }
    adamw = optax.adamw(rates, 0.9, 0.95, 1e-8, weight_decay=0.3, mask=mask)
    reference = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    want, want_state = params, reference.init(params)
    got, got_state = params, optim.init(settings(), params)
    for step in range(STEPS):
        grads = noisy(params, step, scale)
        clipped = optax.global_norm(grads) > 1
        assert clipped == (scale == 1), "one case clips, the other does not"
        updates, want_state = reference.update(grads, want_state, want)
        want = optax.apply_updates(want, updates)
        got, got_state, metrics = optim.update(
            settings(), grads, got_state, got, step, hyper()
        )
        np.testing.assert_allclose(metrics["lr"], rates(step), 1e-6)
        np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), 1e-6)
        close(got, want, 1e-6 * (step + 1))
    assert np.abs(np.asarray(got["embedding"]) - params["embedding"]).max() > 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_layers_are_updated_as_layers_alone(name):
    model, params = everything()
    grads = noisy(params, 1)
    config = settings(name=name)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def two_updates(params, grads):
        state = optim.init(config, params)
        for step in (WARMUP, WARMUP + 1):
            params, state, _ = optim.update(config, grads, state, params, step, hyper())
        return params

    new = two_updates(params, grads)
    assert "units" in new
    alone = two_updates(model.unstack(params), model.unstack(grads))
    close(model.unstack(new), alone, 1e-6)


def test_other_numbers_do_not_compile_the_update_again():
    traced = []

    @functools.partial(jax.jit, compiler_options=QUICK)
    def update(params, grads, hyper):
        traced.append(1)
        state = optim.init(settings(), params)
        return optim.update(settings(), grads, state, params, 0, hyper)[0]

    params = {"kernel": values(3, 3)}
    first = update(params, params, hyper())
    others = [dict(lr=0.2), dict(weight_decay=0.1), dict(clip=0.1), dict(seed=4)]
    results = [update(params, params, hyper(**other)) for other in others]
    update(params, params, optim.hyper(settings(), 1000, 0))
    assert len(traced) == 1
    for result in results[:2]:
        assert not np.allclose(result["kernel"], first["kernel"])
    same(results[3], first)


def test_a_grid_of_numbers_shares_one_program():
    _, config = language_model(("lstm",))
    of = lambda **new: program(configs.resolve(configs.override(config, new)), 11)
    one = program(config, 11)
    numbers = {
        "optim.lr": 1e-3,
        "seed": 3,
        "optim.warmup": "2 steps",
        "optim.clip": 9.0,
    }
    assert of(**numbers) is one
    for key, value in {"model.width": 32, "optim.b1": 0.8}.items():
        assert of(**{key: value}) is not one
    assert of(**{"optim.schedule": "constant"}) is not one
