"""Blocks: the contract around a mixer, and parity with the layers of transformers."""

import functools
import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPTJConfig, GPTNeoXConfig, Olmo2Config, RecurrentGemmaConfig
from transformers.masking_utils import create_causal_mask
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.recurrent_gemma import modeling_recurrent_gemma as griffin

from lm import count, loss, optim, parameters, sequence
from lm.blocks import BLOCKS, ChannelMix
from lm.errors import ConfigError
from lm.mixers import MIXERS, Mixer
from lm.mixers.attention import Attention
from lm.mixers.rglru import RGLRU
from lm.ops import conv
from tests import contract
from tests.oracles import TOLERANCE, B, D, T, filled
from tests.subjects import (
    LAYERS,
    LENGTH,
    QUICK,
    ROWS,
    WIDTH,
    apply,
    close,
    cut,
    going_on,
    initial,
    language_model,
    same,
    tokens,
    values,
)

F = 24


class Wide(RGLRU):
    """A mixer that the xLSTM block widens the model around, if its fields say so."""

    wide: bool = True

    @property
    def up_project(self) -> bool:
        return self.wide


class Framed(Mixer):
    """A block as a mixer, which the whole contract can then be held against."""

    block: ClassVar[str]
    inner: ClassVar[type[Mixer]] = RGLRU
    settings: ClassVar[dict] = {}

    def make(self, **names):
        kind, fields = BLOCKS[self.block], {"heads": 2}
        make = functools.partial(
            self.inner, layers=self.layers, dtype=self.dtype, **fields
        )
        mixer = make(width=self.width, parent=None)
        make = functools.partial(make, width=kind.mixer_width(mixer, F - 1))
        fields = kind.mlps[0], F - 1, "layernorm", 1e-5, True
        return kind(make, *fields, **self.settings, **names)

    @nn.compact
    def __call__(self, x_BxTxD, seq, state, carry):
        return self.make(name="inner")(x_BxTxD, seq, state, carry)

    def initial_state(self, batch, capacity):
        return self.make(parent=None).initial_state(batch, capacity)

    @property
    def state_grows(self):
        return self.make(parent=None).make_mixer(parent=None).state_grows


FRAMED = {name: type(name, (Framed,), {"block": name}) for name in BLOCKS}
FRAMED["xlstm_wide"] = type("xlstm_wide", (FRAMED["xlstm"],), {"inner": Wide})
FRAMED["olmo_after"] = type("olmo_after", (FRAMED["olmo"],), {"inner": Attention})
FRAMED["shared_conv"] = type(
    "shared_conv", (FRAMED["shared"],), {"settings": {"conv_width": 3}}
)
CHECKS = [
    *("causality", "steps", "splits", "documents", "precision"),
    *("stability", "growth", "isolation"),
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", FRAMED)
def test_a_block_keeps_the_contract_of_its_mixer(monkeypatch, name, check):
    monkeypatch.setitem(MIXERS, f"framed_{name}", FRAMED[name])
    contract.CHECKS[check](f"framed_{name}")


@pytest.fixture
def model_of(monkeypatch):
    """(name of FRAMED, depth, pattern, changes) -> model."""
    monkeypatch.setitem(MIXERS, "wide", Wide)

    def make(name, depth=2, pattern=("rglru",), **changes):
        pattern = {"xlstm_wide": ("wide",), "olmo_after": ("attention",)}.get(
            name, pattern
        )
        block = FRAMED[name].block
        fields = {"block": block, "mlp": BLOCKS[block].mlps[0], "bias": True}
        fields |= FRAMED[name].settings
        return language_model(pattern, depth, **fields | changes)[0]

    return make


def moved(params):
    """Parameters away from the zeros that some are born with."""
    return jax.tree.map(lambda p: p + 0.1 * values(*p.shape, seed=p.size), params)


@pytest.mark.parametrize("name", FRAMED)
def test_remat_and_the_loop_over_layers_change_nothing(model_of, name):
    seq = sequence.from_segments(contract.ragged().segment_ids)
    model = model_of(name)
    params = moved(initial(model))

    def all_of(model, params, unstack=lambda grads: grads):
        def nats(params):
            state = model.initial_state(ROWS, 0)
            logits, _ = model.apply({"params": params}, tokens(), seq, state)
            return loss.summed(logits, tokens(seed=1), seq.valid)[0], logits

        # Without fusion, as in tests/contract.py: else products round elsewhere.
        options = QUICK | {"xla_disable_hlo_passes": "fusion"}
        grad = jax.jit(jax.value_and_grad(nats, has_aux=True), compiler_options=options)
        (_, logits), grads = grad(params)
        return logits, unstack(grads)

    want = all_of(model, params, model.unstack)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(want[1]))
    # Without a norm between layers XLA sums the gradient of a bias in another order.
    alike = functools.partial(close, tolerance=1e-6) if name == "plain" else same
    for remat in ("full", "dots"):
        alike(all_of(model.clone(remat=remat), params, model.unstack), want)
    alike(all_of(model.unrolled(), model.unstack(params)), want)


@pytest.mark.parametrize("name", FRAMED)
def test_decoding_is_the_full_forward(model_of, name):
    decodes(model_of(name, 3, ("rglru", "lstm")))


def test_a_convolution_goes_before_mixers_with_a_cache_a_carry_and_one_of_their_own():
    pattern = ("attention", "rwkv7", "hgrn", "mamba", "window")
    decodes(language_model(pattern, conv_width=3)[0])


def decodes(model):
    """A prefill and single steps from its state give the logits of one call."""
    params = moved(initial(model))
    want, _ = apply(model, params, tokens(), sequence.full(ROWS, LENGTH))
    unrolled, leaves = model.unrolled(), model.unstack(params)
    seq = sequence.full(ROWS, LENGTH)
    logits, state = apply(unrolled, leaves, tokens()[:, :5], cut(seq, 0, 5), LENGTH)
    close(logits, want[:, :5])
    step = jax.jit(lambda *args: unrolled.apply({"params": leaves}, *args))
    for t in range(5, LENGTH):
        logits, state = step(tokens()[:, t : t + 1], cut(seq, t, t + 1), state)
        close(logits[:, 0], want[:, t])


def test_a_token_is_shifted_inside_its_document_alone():
    ids = [[1] * T, [0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 0, 0, 0], [1] * 3 + [0] * 10]
    seq, start = going_on([*ids, [0] * T], 2), values(4, D, seed=2)
    x = values(4, T, D)
    before, buffer = map(np.asarray, jax.jit(conv.shift)(x, start, seq))
    for b in range(4):
        last = start[b]
        for t in np.flatnonzero(seq.valid[b]):
            same(before[b, t], 0 * last if seq.reset[b, t] else last)
            last = x[b, t]
        same(buffer[b], last)
    one = np.concatenate([0 * x[:1, :1], x[:1, :-1]], 1)
    same(conv.shift(x[:1], start[:1], sequence.full(1, T))[0], one)


def test_a_model_without_a_convolution_is_inside_one_with():
    """Bitwise: its parameters, and its outputs where the kernels are zeros."""
    model = lambda **changes: language_model(("attention", "gru"), 3, **changes)[0]
    bare, model = model(), model(conv_width=3)
    params, more = bare.unstack(initial(bare)), model.unstack(initial(model))
    blocks = [f"prefix_block_{j}" for j in range(3)]
    kernels = [more[name].pop("conv_kernel") for name in blocks]
    same(more, params)

    def run(model, params):
        seq = sequence.full(ROWS, LENGTH)
        return apply(model.unrolled(), params, tokens(), seq, LENGTH)

    def convolved(scale):
        added = {
            name: more[name] | {"conv_kernel": scale * kernel}
            for name, kernel in zip(blocks, kernels, strict=True)
        }
        return run(model, more | added)

    want, state = run(bare, params)
    got, states = convolved(0)
    same(got, want)
    same([block["mixer"] for block in states["prefix"]], list(state["prefix"]))
    assert np.abs(convolved(1)[0] - want).max() > 0.01
    for kernel in kernels:
        assert kernel.shape == (3, WIDTH)
        assert 0.5 < np.abs(kernel).max() <= 3**-0.5
    more = count.state_bytes(model, 64) - count.state_bytes(bare, 64)
    assert more == 3 * 2 * WIDTH * 4
    token = model.context_flops(64) - bare.context_flops(64)
    assert token == 64 * 3 * 2 * 3 * WIDTH


def test_a_convolution_adds_to_what_the_mixer_reads():
    """h + conv(h) by hand, from the normalised input on."""
    kind, seq = FRAMED["shared_conv"](D, LAYERS, jnp.float32), sequence.full(B, T)
    x, key = values(B, T, D), jax.random.key(0)
    start = kind.initial_state(B, 0)
    params = kind.init(key, x, seq._replace(key=key), start, {})["params"]["inner"]
    params |= {"mlp": jax.tree.map(jnp.zeros_like, params["mlp"])}
    y, state, _ = kind.apply({"params": {"inner": params}}, x, seq, start, {})
    h = np.asarray((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True))
    before = np.concatenate([np.zeros((B, 2, D)), h], 1)
    read = h + sum(before[:, i : i + T] * params["conv_kernel"][i] for i in range(3))
    mixer = RGLRU(D, LAYERS, jnp.float32, heads=2)
    variables = {"params": params["mixer"]}
    want, mixed, _ = mixer.apply(variables, read, seq, start["mixer"], {})
    close((y, state), (x + want, {"mixer": mixed, "conv": h[:, -2:]}), 1e-4)


def agree(run, reference, named, ours, *inputs) -> None:
    """Outputs and all gradients within TOLERANCE of the largest of each.

    Args:
      run: (params, *inputs) -> outputs, in JAX; reference: (*inputs) -> outputs, torch.
      named: torch parameters; ours: (arrays by name, 1) -> our params. It is given
        gradients with 0 instead of 1, so that scales of 1 + w can be told.
    """
    weights = lambda i, x: values(*x.shape, seed=90 + i)
    given = [torch.tensor(a, requires_grad=True) for a in inputs]
    outputs = reference(*given)
    sum(
        (x * torch.from_numpy(weights(i, x))).sum() for i, x in enumerate(outputs)
    ).backward()
    params = ours({k: p.detach().numpy() for k, p in named.items()}, 1)
    want_params = ours({k: p.grad.numpy() for k, p in named.items()}, 0)

    def total(params, *inputs):
        outputs = run(params, *inputs)
        return sum(jnp.sum(x * weights(i, x)) for i, x in enumerate(outputs)), outputs

    grad = jax.value_and_grad(total, tuple(range(len(inputs) + 1)), has_aux=True)
    (_, got), (got_params, *got_inputs) = jax.jit(grad)(params, *inputs)

    def check(got, want):
        size = np.abs(want).max()
        assert size > 0, "the reference gives zeros"
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * size)

    jax.tree.map(check, list(got), [x.detach().numpy() for x in outputs])
    jax.tree.map(check, got_params, want_params)
    jax.tree.map(check, got_inputs, [x.grad.numpy() for x in given])


def agree_block(block, kind, fields, settings, reference, named, ours, width=D):
    """`agree` of a whole block around mixer `kind` with the layer `reference`."""
    make = functools.partial(kind, width, LAYERS, jnp.float32, **fields)
    module = BLOCKS[block](make, mlp_width=F, **{"bias": True} | settings)
    seq, state = sequence.full(B, T), module.initial_state(B, 0)
    run = lambda params, x: module.apply({"params": params}, x, seq, state, {})[:1]
    agree(run, reference, named, ours, values(B, T, D, seed=1))


def dense(p, name):
    """{"kernel", "bias"} of a torch.nn.Linear."""
    pair = {"kernel": p[f"{name}.weight"].T}
    return pair | ({"bias": p[f"{name}.bias"]} if f"{name}.bias" in p else {})


def layer_norm(p, name):
    return {"scale": p[f"{name}.weight"], "bias": p[f"{name}.bias"]}


GELU = {"mlp": "gelu", "norm": "layernorm", "norm_eps": 1e-5}
HEADS = 4


def test_parallel_is_the_layer_of_gpt_neox():
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    config = GPTNeoXConfig(
        hidden_size=D,
        num_attention_heads=HEADS,
        intermediate_size=F,
        hidden_act="gelu_new",
        rope_parameters=rope,
        attn_implementation="eager",
    )
    module = neox.GPTNeoXLayer(config, layer_idx=0).eval()
    at = torch.arange(T)[None].expand(B, T)

    def reference(x):
        mask = create_causal_mask(config, x, None, None, at)
        cos_sin = neox.GPTNeoXRotaryEmbedding(config)(x, at)
        return (module(x, mask, position_ids=at, position_embeddings=cos_sin),)

    def ours(p, one):
        # Its columns are [heads, (q, k, v), K]; ours are [(q, k, v), heads, K].
        by_head = lambda x: x.reshape(*x.shape[:-1], HEADS, 3, D // HEADS)
        sort = lambda x: by_head(x).swapaxes(-3, -2).reshape(x.shape)
        qkv = jax.tree.map(sort, dense(p, "attention.query_key_value"))
        return {
            "mixer_norm": layer_norm(p, "input_layernorm"),
            "mixer": {"qkv": qkv, "output": dense(p, "attention.dense")},
            "mlp_norm": layer_norm(p, "post_attention_layernorm"),
            "mlp": {
                "wi": dense(p, "mlp.dense_h_to_4h"),
                "wo": dense(p, "mlp.dense_4h_to_h"),
            },
        }

    named, fields = filled(module), {"heads": HEADS, "bias": True}
    agree_block("parallel", Attention, fields, GELU, reference, named, ours)


def test_olmo_is_the_layer_of_olmo_2():
    config = Olmo2Config(
        hidden_size=D,
        num_attention_heads=HEADS,
        intermediate_size=F,
        attn_implementation="eager",
    )
    module = olmo2.Olmo2DecoderLayer(config, layer_idx=0).eval()
    at = torch.arange(T)[None].expand(B, T)

    def reference(x):
        mask = create_causal_mask(config, x, None, None, at)
        cos_sin = olmo2.Olmo2RotaryEmbedding(config)(x, at)
        return (module(x, mask, position_ids=at, position_embeddings=cos_sin),)

    def ours(p, one):
        scale = lambda name: {"scale": p[f"{name}.weight"]}
        qkv = [p[f"self_attn.{part}_proj.weight"].T for part in "qkv"]
        names = {"wg": "gate", "wi": "up", "wo": "down"}
        return {
            "mixer_norm": scale("post_attention_layernorm"),
            "mixer": {
                "qkv": {"kernel": np.concatenate(qkv, 1)},
                "q_norm": scale("self_attn.q_norm"),
                "k_norm": scale("self_attn.k_norm"),
                "output": dense(p, "self_attn.o_proj"),
            },
            "mlp_norm": scale("post_feedforward_layernorm"),
            "mlp": {k: dense(p, f"mlp.{v}_proj") for k, v in names.items()},
        }

    fields = {"heads": HEADS, "qk_norm": "rms_all", "qk_norm_eps": 1e-5}
    settings = {"mlp": "swiglu", "norm": "rmsnorm", "norm_eps": 1e-5, "bias": False}
    agree_block("olmo", Attention, fields, settings, reference, filled(module), ours)


def test_parallel_with_one_norm_is_the_block_of_gpt_j():
    config = GPTJConfig(
        n_embd=D,
        n_head=HEADS,
        n_inner=F,
        rotary_dim=D // HEADS,
        n_positions=T,
        attn_implementation="eager",
    )
    module = gptj.GPTJBlock(config, layer_idx=0).eval()
    at = torch.arange(T)[None].expand(B, T)

    def reference(x):
        mask = create_causal_mask(config, x, None, None, at)
        return module(x, attention_mask=mask, position_ids=at)[:1]

    def ours(p, one):
        # It turns neighbours as pairs; ours are the two halves of a head.
        halves = np.arange(D).reshape(HEADS, -1, 2).swapaxes(1, 2).ravel()
        part = lambda name: p[f"attn.{name}_proj.weight"].T
        qkv = [part("q")[:, halves], part("k")[:, halves], part("v")]
        return {
            "mixer_norm": layer_norm(p, "ln_1"),
            "mixer": {
                "qkv": {"kernel": np.concatenate(qkv, 1)},
                "output": {"kernel": part("out")},
            },
            "mlp": {"wi": dense(p, "mlp.fc_in"), "wo": dense(p, "mlp.fc_out")},
        }

    named, fields = filled(module), {"heads": HEADS}
    agree_block("parallel_one_norm", Attention, fields, GELU, reference, named, ours)


def recurrent(p, prefix):
    """Our RG-LRU of the parameters of a RecurrentGemmaRecurrentBlock."""
    p = {k.removeprefix(prefix): x for k, x in p.items() if k.startswith(prefix)}
    return {
        "gate": dense(p, "linear_y"),
        "input": dense(p, "linear_x"),
        "output": dense(p, "linear_out"),
        "conv_kernel": p["conv_1d.weight"][:, 0].T,
        "conv_bias": p["conv_1d.bias"],
        "decay": p["rg_lru.recurrent_param"],
        "input_gate_kernel": p["rg_lru.input_gate_weight"],
        "input_gate_bias": p["rg_lru.input_gate_bias"].ravel(),
        "recurrence_gate_kernel": p["rg_lru.recurrent_gate_weight"],
        "recurrence_gate_bias": p["rg_lru.recurrent_gate_bias"].ravel(),
    }


def griffin_config(width):
    return RecurrentGemmaConfig(
        hidden_size=width,
        lru_width=width,
        num_attention_heads=2,
        intermediate_size=2 * F,
        block_types=["recurrent"],
        num_hidden_layers=1,
    )


def slower(named):
    """Decays of about 0.6, so that the state is of several tokens."""
    with torch.no_grad():
        next(p for k, p in named.items() if "recurrent_param" in k).sub_(2)
    return named


def test_shared_with_geglu_is_the_layer_of_recurrentgemma():
    module = griffin.RecurrentGemmaDecoderLayer(griffin_config(D), layer_idx=0)
    at = torch.arange(T)[None].expand(B, T)
    reference = lambda x: (module(x, at, None, use_cache=False),)

    def ours(p, one):
        norm = lambda name: {"scale": one + p[f"{name}_pre_norm.weight"]}
        names = {"wg": "gate", "wi": "up", "wo": "down"}
        return {
            "mixer_norm": norm("temporal"),
            "mixer": recurrent(p, "temporal_block."),
            "mlp_norm": norm("channel"),
            "mlp": {k: dense(p, f"mlp_block.{v}_proj") for k, v in names.items()},
        }

    settings = {"mlp": "geglu", "norm": "rmsnorm", "norm_eps": 1e-6}
    named = slower(filled(module))
    agree_block("shared", RGLRU, {"heads": 2}, settings, reference, named, ours)


def test_xlstm_gates_a_mixer_of_the_width_of_its_branches():
    """Its equation in torch, around the recurrent block of RecurrentGemma."""
    inner = griffin.RecurrentGemmaRecurrentBlock(griffin_config(F), layer_idx=0)
    sizes = {"up": (D, F), "gate": (D, F), "down": (F, D)}
    parts = {name: torch.nn.Linear(*size) for name, size in sizes.items()}
    module = torch.nn.ModuleDict(parts | {"norm": torch.nn.LayerNorm(D), "mix": inner})
    at = torch.arange(T)[None].expand(B, T)

    def reference(x):
        n = module["norm"](x)
        h, _ = module["mix"](module["up"](n), at, None, use_cache=False)
        gate = torch.nn.functional.silu(module["gate"](n))
        return (x + module["down"](h * gate),)

    def ours(p, one):
        norm = {"mixer_norm": layer_norm(p, "norm"), "mixer": recurrent(p, "mix.")}
        return norm | {name: dense(p, name) for name in sizes}

    settings = {"mlp": "geglu", "norm": "layernorm", "norm_eps": 1e-5}
    named = slower(filled(module))
    agree_block("xlstm", Wide, {"heads": 2}, settings, reference, named, ours, width=F)


def test_channel_mix_is_its_equation():
    """W_v relu(W_k (x + (x_prev - x) mu))^2, one token after another, in torch."""
    draw = lambda *shape: torch.nn.Parameter(torch.from_numpy(values(*shape) / 3))
    named = {"mu": draw(D), "k": draw(F, D), "v": draw(D, F)}

    def reference(x, before):
        outputs = []
        for t in range(T):
            mixed = x[:, t] + (before - x[:, t]) * named["mu"]
            outputs.append(torch.relu(mixed @ named["k"].T) ** 2 @ named["v"].T)
            before = x[:, t]
        return torch.stack(outputs, 1), before

    def ours(p, one):
        kernels = {"key": {"kernel": p["k"].T}, "value": {"kernel": p["v"].T}}
        return {"shift_scale": p["mu"]} | kernels

    module, seq = ChannelMix(F, LAYERS), sequence.full(B, T, start=1)
    run = lambda params, x, last: module.apply({"params": params}, x, seq, last)
    inputs = values(B, T, D, seed=1), values(B, D, seed=2)
    agree(run, reference, named, ours, *inputs)


def test_channel_mix_is_born_as_its_paper_has_it(model_of):
    model = model_of("rwkv", LAYERS, bias=False)
    params = model.unstack(initial(model))
    place = np.arange(WIDTH) / WIDTH
    for layer in range(LAYERS):
        born = params[f"prefix_block_{layer}"]["channel_mix"]
        want = 1 - place ** ((1 - layer / LAYERS) ** 4)
        close(born["shift_scale"], want, 1e-6)
        bound = 0.5 * WIDTH**-0.5
        assert 0.9 * bound < np.abs(born["key"]["kernel"]).max() <= bound
        same(born["value"]["kernel"], np.zeros((F, WIDTH)))
    groups = optim.groups(params)["prefix_block_0"]["channel_mix"]
    want = {"shift_scale": "no_decay"}
    want |= {name: {"kernel": "decay"} for name in ("key", "value")}
    assert groups == want


def test_up_projection_is_born_as_its_paper_has_it(model_of):
    model = model_of("xlstm_wide", LAYERS, width=64, mlp_width=128, bias=False)
    block = initial(model)["units"]["block_0"]
    std = lambda name: np.std(block[name]["kernel"])
    for name, want in (
        *(("up", (2 / (5 * 64)) ** 0.5), ("gate", (2 / (5 * 64)) ** 0.5)),
        ("down", 2 / LAYERS / 64**0.5),
    ):
        assert std(name) == pytest.approx(want, rel=0.03)
    assert set(block) == {"mixer_norm", "up", "gate", "mixer", "down"}


def test_the_fields_of_a_mixer_say_whether_it_is_widened(model_of):
    for wide, names in (
        (True, {"mixer_norm", "up", "gate", "mixer", "down"}),
        (False, {"mixer_norm", "mixer", "mlp_norm", "mlp"}),
    ):
        model = model_of("xlstm_wide", **{"mixers.wide.wide": wide, "mlp_width": 35})
        assert set(initial(model)["units"]["block_0"]) == names
        assert model.mixer("wide").width == (36 if wide else WIDTH)


@pytest.mark.parametrize("name", [name for name in FRAMED if name != "plain"])
def test_a_width_is_fitted_to_a_size(model_of, name):
    build = lambda width: model_of(name, mlp_width=width)
    params = count.quantity("params", 128)
    width, achieved = count.fit(build, "model.mlp_width", params, params(build(40)))
    assert width in (39, 40) and achieved == params(build(40))


@pytest.mark.parametrize("block", ["shared", "rwkv"])
def test_a_narrower_mlp_is_a_prefix(model_of, block):
    narrow, wide = (
        model_of(block, mlp="geglu" if block == "shared" else "none", mlp_width=width)
        for width in (F, 37)
    )
    kernels = lambda model: {
        path: leaf
        for path, leaf in zip(
            *map(jax.tree.leaves, (parameters.paths(initial(model)), initial(model))),
            strict=True,
        )
        if re.search("/(mlp|channel_mix)/", path)
    }
    narrow, wide = kernels(narrow), kernels(wide)
    assert len(narrow) >= 4
    for path, leaf in narrow.items():
        same(leaf, wide[path][tuple(map(slice, leaf.shape))])


def test_the_state_of_rwkv_is_that_of_its_mixer_and_one_token(model_of):
    plain, shifted = model_of("shared", 2), model_of("rwkv", 2)
    more = count.state_bytes(shifted, 64) - count.state_bytes(plain, 64)
    assert more == 2 * WIDTH * 4
    token = count.forward_flops(shifted, 64) / 64
    mlp = 2 * 2 * WIDTH * F
    bare = count.forward_flops(model_of("shared", 2, mlp="none"), 64) / 64
    assert token - bare == 2 * mlp


def test_unrunnable_blocks_are_turned_down_by_name():
    for changes, words in (
        ({"block": "paralel"}, "did you mean 'parallel'"),
        ({"block": "rwkv"}, "model.mlp='swiglu' has no place in model.block='rwkv'"),
        ({"block": "xlstm"}, "add --config.model.mlp=geglu"),
        ({"block": "parallel", "mlp": "none"}, "add --config.model.mlp=swiglu"),
        ({"conv_width": 0}, "model.conv_width=0 must be at least 1"),
        (
            {"block": "parallel", "conv_width": 3},
            "model.conv_width=3 has no place in model.block='parallel'; add "
            "--config.model.conv_width=1",
        ),
        ({"block": "xlstm", "mlp": "geglu", "conv_width": 2}, "conv_width=2 has no"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            language_model(("gru",), **changes)
