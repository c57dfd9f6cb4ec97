"""Pretrained models in and out: transformers is the reference for every family."""

import json
import math
import re
import shutil
import struct

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from lm import config as configs
from lm import generate, interop, loss, sequence
from lm import model as models
from lm.errors import ConfigError
from lm.parameters import paths

V, T = 61, 19
SIZES = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
LLAMA = SIZES | {
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
SLOWER = {"rope_type": "linear", "factor": 3, "rope_theta": 99.0}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MAMBA = SIZES | {"hidden_size": 24, "state_size": 5, "num_hidden_layers": 3}
GPT2 = SIZES | {"n_positions": 67, "n_embd": 24, "n_layer": 3, "n_head": 3}
GEMMA = LLAMA | {"hidden_size": 32, "intermediate_size": 100}
GEMMA |= {"attention_window_size": 7}
NEOX = LLAMA | {"hidden_size": 32}
OLMO = LLAMA | {"num_hidden_layers": 5}
# torch gives the embedding of a pad_token_id no gradient.
BERT = LLAMA | {"max_position_embeddings": 41, "pad_token_id": None}
# name: (config class, fields): odd sizes, tied and untied, with biases and without,
# grouped heads, and each choice that a family has.
VARIANTS = {
    "gpt2": (transformers.GPT2Config, GPT2),
    "gpt2-untied": (
        transformers.GPT2Config,
        GPT2
        | {"n_inner": 50, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}
        | {"tie_word_embeddings": False},
    ),
    "llama": (transformers.LlamaConfig, LLAMA),
    "llama-biased": (
        transformers.LlamaConfig,
        LLAMA
        | {"num_key_value_heads": 2, "head_dim": 10, "attention_bias": True}
        | {"mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "llama-scaled": (
        transformers.LlamaConfig,
        LLAMA | {"rope_parameters": LLAMA_3, "head_dim": 16},
    ),
    "qwen3-slower": (
        transformers.Qwen3Config,
        LLAMA | {"num_key_value_heads": 4, "rope_parameters": SLOWER},
    ),
    "mistral": (
        transformers.MistralConfig,
        LLAMA | {"num_key_value_heads": 1, "sliding_window": 5},
    ),
    "qwen3": (
        transformers.Qwen3Config,
        LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    ),
    "olmo2": (transformers.Olmo2Config, LLAMA),
    "olmo2-biased": (
        transformers.Olmo2Config,
        LLAMA
        | {"num_key_value_heads": 2, "attention_bias": True, "rms_norm_eps": 1e-3}
        | {"tie_word_embeddings": True, "rope_parameters": SLOWER},
    ),
    "olmo_hybrid": (transformers.OlmoHybridConfig, OLMO),
    "olmo_hybrid-unplaced": (
        transformers.OlmoHybridConfig,
        OLMO
        | {
            "layer_types": ["full_attention", "linear_attention"] * 2
            + ["full_attention"]
        }
        | {"num_key_value_heads": 2, "attention_bias": True, "rms_norm_eps": 1e-3}
        | {"linear_num_key_heads": 3, "linear_num_value_heads": 3}
        | {"linear_key_head_dim": 5, "linear_value_head_dim": 7}
        | {"linear_conv_kernel_dim": 3, "linear_allow_neg_eigval": False}
        | {"tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
    ),
    "gpt_neox": (transformers.GPTNeoXConfig, NEOX),
    "gpt_neox-serial": (
        transformers.GPTNeoXConfig,
        NEOX
        | {"use_parallel_residual": False, "attention_bias": False}
        | {"hidden_act": "gelu_new", "tie_word_embeddings": True}
        | {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 99.0}},
    ),
    "bert": (transformers.BertConfig, BERT),
    "bert-untied": (
        transformers.BertConfig,
        BERT
        | {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-3}
        | {"tie_word_embeddings": False},
    ),
    "recurrent_gemma": (
        transformers.RecurrentGemmaConfig,
        GEMMA | {"num_hidden_layers": 5, "num_key_value_heads": 1},
    ),
    "recurrent_gemma-untied": (
        transformers.RecurrentGemmaConfig,
        GEMMA
        | {"block_types": ["attention", "recurrent"], "lru_width": 32}
        | {"attention_bias": True, "conv1d_width": 3, "attention_window_size": 5}
        | {"tie_word_embeddings": False, "rms_norm_eps": 1e-3, "logits_soft_cap": 2.0}
        | {"rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0}},
    ),
    "mamba": (transformers.MambaConfig, MAMBA | {"time_step_rank": 3}),
    "mamba-untied": (
        transformers.MambaConfig,
        MAMBA
        | {"expand": 3, "conv_kernel": 3, "tie_word_embeddings": False}
        | {"layer_norm_epsilon": 1e-3},
    ),
    "mamba2": (
        transformers.Mamba2Config,
        MAMBA | {"head_dim": 8, "num_heads": 6, "n_groups": 2},
    ),
    "mamba2-tied": (
        transformers.Mamba2Config,
        MAMBA
        | {"head_dim": 16, "num_heads": 3, "n_groups": 1, "tie_word_embeddings": True},
    ),
}
# The class of transformers that has a family's logits.
AUTO = {"bert": transformers.AutoModelForMaskedLM}
TOKENS_BxT = np.random.default_rng(0).integers(0, V, (2, T))


def auto(name: str):
    return AUTO.get(name.split("-")[0], AutoModelForCausalLM)


def random_model(name: str, **changes):
    """A model of transformers with every parameter drawn anew, in evaluation."""
    kind, fields = VARIANTS[name]
    torch.manual_seed(0)
    config = kind(**fields | changes)
    config._attn_implementation = "eager"
    model = auto(name).from_config(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (its model of transformers, the folder that it saved)."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = random_model(name)
            model.save_pretrained(folder)
            made[name] = model, folder
        return made[name]

    return make


def theirs(model, tokens_BxT=TOKENS_BxT):
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BxT)).logits.numpy()


def ours(model, params, tokens_BxT=TOKENS_BxT):
    B, T = tokens_BxT.shape
    state, seq = model.initial_state(B, 0), sequence.full(B, T)
    run = jax.jit(
        lambda params: model.apply({"params": params}, tokens_BxT, seq, state)
    )
    return np.asarray(run(params)[0])


def near(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_model_computes_and_generates_the_same_and_goes_back(
    saved, name, tmp_path
):
    reference, folder = saved(name)
    want = theirs(reference)
    config, model, params, _ = interop.from_pretrained(folder)
    near(ours(model, params), want)

    prompt = TOKENS_BxT[:1, :9]
    how = generate.Sampling(temperature=0.0)
    run = lambda: generate.continuations(model, params, list(prompt), 32, how)
    if model.causal:
        sizes = {"max_new_tokens": 32, "min_new_tokens": 32}
        tokens = reference.generate(torch.from_numpy(prompt), do_sample=False, **sizes)
        assert np.array(run()).tolist() == tokens[:, 9:].tolist()
    else:
        with pytest.raises(ConfigError, match="bidirectional"):
            run()

    out = tmp_path / "out"
    kind = interop.save_pretrained(out, config, model, params)
    assert kind == reference.config.model_type
    back = auto(name).from_pretrained(out, attn_implementation="eager")
    assert type(back) is type(reference)
    # The scales of Gemma's norms are held less 1, which rounds.
    shifted = name.startswith("recurrent_gemma")
    near(theirs(back.eval()), want, 1e-6 if shifted else 0)


@pytest.mark.parametrize("name", ["gpt2", "bert", "mamba2"])
def test_a_step_of_fine_tuning_has_the_same_gradient(saved, name):
    reference, folder = saved(name)
    reference = random_model(name)
    tokens = torch.from_numpy(TOKENS_BxT)
    labels = tokens.clone()
    labels[:, 4:9] = -100
    reference(tokens, labels=labels).loss.backward()
    _, model, params, _ = interop.from_pretrained(folder)
    state, seq = model.initial_state(2, 0), sequence.full(2, T)

    def mean_nats(params):
        logits, _ = model.apply({"params": params}, TOKENS_BxT, seq, state)
        weights = labels.numpy() >= 0
        targets = TOKENS_BxT
        if model.causal:
            logits, targets, weights = logits[:, :-1], targets[:, 1:], weights[:, 1:]
        return loss.summed(logits, targets, weights)[0] / weights.sum()

    grads = jax.jit(jax.grad(mean_nats))(params)
    family, values = interop.family_of(
        interop.from_pretrained(folder).config, model.vocab_size
    )
    named = {k: p.grad.numpy() for k, p in reference.named_parameters()}
    seen = set()
    for path, leaf in zip(
        jax.tree.leaves(paths(grads)), jax.tree.leaves(grads), strict=True
    ):
        layers = interop.layout(family, values, model)[path]
        for r, tensor in enumerate(layers):
            part = leaf[r] if path.startswith("units/") else leaf
            for key, got in zip(tensor.names, tensor.write(part), strict=True):
                seen.add(key)
                if key.endswith("attention.self.key.bias"):
                    # Softmax takes no notice of it: 0, and rounding's.
                    assert max(np.abs(got).max(), np.abs(named[key]).max()) < 1e-6
                    continue
                error = np.abs(np.asarray(got) - named[key]).max()
                assert error <= 1e-4 * np.abs(named[key]).max(), key
    assert seen == named.keys()


def other(value):
    """Values of the kind of `value` that are not it."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value + 1, 1]
    if isinstance(value, float):
        return [value * 3 + 0.25]
    if isinstance(value, str):
        return ["relu", "gelu_pytorch_tanh"]
    if isinstance(value, list) and value and isinstance(value[0], float):
        return [[0.05, 0.1]]
    if isinstance(value, dict):
        return [{**value, "rope_type": "linear", "factor": 4.0}, {**value, "new": 1}]
    return [3, True, "relu"] if value is None else []


def by_transformers(folder, reference, kind=AutoModelForCausalLM):
    """Logits of the weights of `reference` under a folder's config.json.

    None if transformers refuses it, or fills or draws some weight anew.
    """
    try:
        model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        weights = dict(reference.named_parameters())
        held = dict(model.named_parameters())
        if all(torch.equal(p, weights[name]) for name, p in held.items()):
            return theirs(model)
    except Exception:  # noqa: BLE001 - it has no error of its own for a bad config
        pass
    return None


PLAIN = {"bert", "gpt2", "llama", "mistral", "qwen3", "gpt_neox", "mamba", "mamba2"}
PLAIN |= {"recurrent_gemma", "olmo2", "olmo_hybrid"}


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_field_that_changes_the_result_is_honoured_or_refused(saved, name, tmp_path):
    """Each field of the family, and of all families, set to something else.

    The weights stay. Where transformers still takes them and computes something, ours
    computes it too, or names the field in its refusal.
    """
    reference, folder = saved(name)
    base = theirs(reference)
    own = interop.from_pretrained(folder)
    mine = ours(own.model, own.params)
    stored = json.loads((folder / "config.json").read_text())
    complete = reference.config.to_dict()
    near(by_transformers(folder, reference, auto(name)), base)
    honoured, refused, free, wrong = set(), set(), set(), []
    for field in sorted(complete.keys() - {"model_type", "architectures", "dtype"}):
        for i, value in enumerate(other(complete[field])):
            made = tmp_path / f"{field}-{i}"
            shutil.copytree(folder, made)
            written = json.dumps(stored | {field: value})
            (made / "config.json").write_text(written)
            want = by_transformers(made, reference, auto(name))
            try:
                config, model, params, _ = interop.from_pretrained(made)
            except ConfigError as error:
                message = str(error)
                assert field in message or "makes it" in message or "missing" in message
                refused.add(field)
                continue
            # What it computes follows from these; compiling it takes seconds.
            alike = config.model == own.config.model
            alike = alike and model.positions == own.model.positions
            got = mine if alike else ours(model, params)
            expected = base if want is None else want
            error = float(np.abs(got - expected).max() / np.abs(expected).max())
            if error > 1e-5:
                wrong.append(f"{field}={value!r}: {error:.1e}")
            changed = want is not None and np.abs(want - base).max() > 1e-6
            (honoured if changed else free).add(field)
    assert not wrong
    assert refused
    # Of these every field that changes no shape has but one value here.
    assert honoured or name in ("mamba2", "qwen3")


def test_all_that_is_wrong_is_in_one_error(saved, tmp_path):
    _, folder = saved("llama")
    made = tmp_path / "broken"
    shutil.copytree(folder, made)
    stored = json.loads((made / "config.json").read_text())
    stored |= {"is_encoder_decoder": True, "shining": 2}
    (made / "config.json").write_text(json.dumps(stored))
    tensors = load_file(made / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(7, np.float32)
    tensors["model.layers.0.more"] = np.ones(2, np.float32)
    save_file(tensors, made / "model.safetensors")
    with pytest.raises(ConfigError) as error:
        interop.from_pretrained(made)
    for part in (
        "is_encoder_decoder=True",
        "shining=2",
        "missing: model.layers.1.mlp.up_proj.weight",
        "model.norm.weight is [7], and config.json makes it [24]",
        "surplus: model.layers.0.more",
    ):
        assert part in str(error.value)


def test_a_wrong_vocabulary_is_a_shape(saved, tmp_path):
    _, folder = saved("gpt2")
    made = copied(folder, tmp_path, vocab_size=V + 1)
    with pytest.raises(ConfigError, match=re.escape(f"wte.weight is [{V}, 24]")):
        interop.from_pretrained(made)


def copied(folder, tmp_path, **fields):
    """A copy of a folder with other fields in its config.json."""
    made = tmp_path / "copy"
    shutil.copytree(folder, made)
    stored = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(stored | fields))
    return made


def test_an_unknown_family_is_named_beside_those_there_are(saved, tmp_path):
    made = copied(saved("gpt2")[1], tmp_path, model_type="t5")
    with pytest.raises(ConfigError, match="model_type='t5'.*gpt2, bert, llama"):
        interop.from_pretrained(made)


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("gpt2", "n_head", 0, "n_head=0 must be at least 1"),
        ("gpt2", "n_layer", "3", "n_layer='3' is no int"),
        ("llama", "num_attention_heads", None, "num_attention_heads=None is no int"),
        ("llama", "hidden_size", True, "hidden_size=True is no int"),
        ("llama", "attention_bias", 1, "attention_bias=1 is no bool"),
        ("llama", "rope_parameters", [1], "rope_parameters=[1] is no object"),
        ("llama", "rope_parameters", {"rope_type": "linear"}, "factor=None is no numb"),
        ("llama", "rope_parameters", {"spin": 2}, "spin has no place"),
        ("mamba", "layer_norm_epsilon", "x", "layer_norm_epsilon='x' is no float"),
        ("mamba", "time_step_rank", "big", "time_step_rank='big'"),
    ],
)
def test_a_field_of_another_type_is_named(saved, tmp_path, name, field, value, words):
    made = copied(saved(name)[1], tmp_path, **{field: value})
    with pytest.raises(ConfigError, match=re.escape(words)):
        interop.from_pretrained(made)


def test_rope_by_its_old_fields_and_scaled(saved, tmp_path):
    reference, folder = saved("llama")
    stored = json.loads((folder / "config.json").read_text())
    del stored["rope_parameters"]
    made = tmp_path / "old"
    shutil.copytree(folder, made)
    (made / "config.json").write_text(json.dumps(stored | {"rope_theta": 10000.0}))
    _, model, params, _ = interop.from_pretrained(made)
    near(ours(model, params), theirs(reference))
    scaling = {"rope_type": "yarn", "factor": 8.0}
    (made / "config.json").write_text(json.dumps(stored | {"rope_scaling": scaling}))
    with pytest.raises(ConfigError, match="rope_type='yarn'"):
        interop.from_pretrained(made)


def test_names_of_a_bare_model_and_buffers_of_old_files(saved, tmp_path):
    reference, folder = saved("gpt2")
    made = tmp_path / "bare"
    made.mkdir()
    shutil.copy(folder / "config.json", made)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 67, 67), np.float32)
    bare["h.0.attn.masked_bias"] = np.float32(-1e4)[None]
    save_file(bare, made / "model.safetensors")
    _, model, params, _ = interop.from_pretrained(made)
    near(ours(model, params), theirs(reference))


@pytest.mark.parametrize(
    "given",
    [
        {"rope_theta": None},
        {"rope_parameters": None, "rope_theta": None},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": None},
        {"rope_parameters": {"rope_type": None, "rope_theta": None}},
        {},
    ],
)
def test_a_null_base_of_rope_is_none_and_an_absent_one_is_the_default(
    saved, tmp_path, given
):
    """Of OLMo Hybrid, as its converter and transformers write it."""
    reference, folder = saved("olmo_hybrid")
    made = copied(folder, tmp_path)
    stored = json.loads((made / "config.json").read_text())
    del stored["rope_parameters"]
    (made / "config.json").write_text(json.dumps(stored | given))
    want = by_transformers(made, reference)
    config, model, params, _ = interop.from_pretrained(made)
    near(ours(model, params), want)
    placed = config.model.mixers.attention.position
    assert placed == ("none" if given else "rope")


def test_names_and_cuts_that_transformers_gives_or_takes(saved, tmp_path):
    """It writes OLMo Hybrid's norms by one name for both kinds of layers, and cuts the
    convolution into thirds; a published file has names by kind, and cuts q, k, v."""
    _, folder = saved("olmo_hybrid-unplaced")
    config, model, params, _ = interop.from_pretrained(folder)
    interop.save_pretrained(tmp_path / "ours", config, model, params)
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = load_file(folder / "model.safetensors")
    renamed = theirs.keys() - tensors.keys()
    assert renamed == {
        f"model.layers.{i}.feedforward_layer_norm.weight" for i in (0, 2, 4)
    }
    name = "model.layers.1.linear_attn.{}_conv1d.weight".format
    lengths = lambda tensors: [len(tensors[name(part)]) for part in "qkv"]
    assert (lengths(theirs), lengths(tensors)) == ([17, 17, 17], [15, 15, 21])
    again = interop.from_pretrained(tmp_path / "ours").params
    jax.tree.map(np.testing.assert_array_equal, again, params)

    save = lambda: save_file(tensors, tmp_path / "ours" / "model.safetensors")
    old = "model.layers.0.feedforward_layer_norm.weight"
    tensors[old] = np.ones(24, np.float32)
    save()
    with pytest.raises(ConfigError, match=f"surplus: {old}"):
        interop.from_pretrained(tmp_path / "ours")
    del tensors[old]
    tensors[name("v")] = tensors[name("v")][1:]
    save()
    with pytest.raises(ConfigError, match=r"v_conv1d.weight is \[20, 1, 3\]"):
        interop.from_pretrained(tmp_path / "ours")


def test_shards_are_read_and_written(saved, tmp_path):
    reference, folder = saved("llama")
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    want = interop.from_pretrained(folder)
    got = interop.from_pretrained(tmp_path / "theirs")
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    interop.save_pretrained(
        tmp_path / "ours", want.config, want.model, want.params, shard_bytes=20_000
    )
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    near(theirs(back), theirs(reference))
    with pytest.raises(ConfigError, match="holds a config.json already"):
        interop.save_pretrained(tmp_path / "ours", want.config, want.model, want.params)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_widened(saved, tmp_path, dtype):
    reference = random_model("gpt2").to(dtype)
    reference.save_pretrained(tmp_path)
    _, model, params, _ = interop.from_pretrained(tmp_path)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    near(ours(model, params), theirs(reference.float()))


def test_parameters_go_straight_to_their_devices(saved):
    _, folder = saved("llama")
    devices = np.array(jax.devices()[:2])
    mesh = jax.sharding.Mesh(devices, ("fsdp",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    want = interop.from_pretrained(folder).params
    got = interop.from_pretrained(
        folder, sharding=lambda p: jax.tree.map(lambda _: split, p)
    ).params
    assert all(x.sharding == split for x in jax.tree.leaves(got))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def header(path, length=None, text=b"{}"):
    """A safetensors file of a header alone."""
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


def test_hostile_files_are_refused_and_nothing_runs(saved, tmp_path):
    _, folder = saved("gpt2")

    def refused(words, change):
        made = tmp_path / words.split()[0]
        shutil.copytree(folder, made)
        change(made)
        with pytest.raises(ConfigError, match=words):
            interop.from_pretrained(made)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    def pickled(made):
        (made / "model.safetensors").unlink()
        torch.save(Bomb(), made / "pytorch_model.bin")

    def outside(made):
        (made / "model.safetensors").rename(tmp_path / "far.safetensors")
        where = {"transformer.wte.weight": "../far.safetensors"}
        index = json.dumps({"weight_map": where})
        (made / "model.safetensors.index.json").write_text(index)

    def absent(made):
        index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
        (made / "model.safetensors.index.json").write_text(index)

    def cut(made):
        whole = (made / "model.safetensors").read_bytes()
        (made / "model.safetensors").write_bytes(whole[:-100])

    refused("pickle, which may hold code", pickled)
    refused("must lie beside its index", outside)
    refused("lacks model-00001-of-00002", absent)
    refused("whole safetensors file", cut)
    refused("no whole safetensors", lambda m: header(m / "model.safetensors", 2**62))
    refused("is no JSON", lambda m: (m / "config.json").write_text("{"))
    refused("not an object", lambda m: (m / "config.json").write_text("[]"))
    refused("has no model.safetensors", lambda m: (m / "model.safetensors").unlink())


def test_what_no_family_computes_is_said_with_the_keys_that_differ(tmp_path):
    def refusal(**changes):
        config = configs.resolve(configs.load("configs/llama.py", changes))
        model = models.build(config, V)
        with pytest.raises(ConfigError) as error:
            interop.save_pretrained(tmp_path / "x", config, model, {})
        return str(error.value)

    assert "model.mixers.attention.soft_cap" in refusal(
        **{"model.mixers.attention.soft_cap": 3.0}
    )
    assert "model.conv_width" in refusal(**{"model.conv_width": 3})
    assert "has layers of lstm" in refusal(**{"model.pattern": ("lstm",)})


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "mamba"])
def test_configs_of_the_families_can_be_written(name, tmp_path):
    config = configs.resolve(configs.load(f"configs/{name}.py"))
    model = models.build(config, V)
    params = jax.jit(model.initial_params)(0)
    assert interop.save_pretrained(tmp_path / "x", config, model, params) == name
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    near(theirs(back), ours(model, params))


def test_a_mixer_by_another_name_in_a_pattern_twice_as_long_is_written(saved, tmp_path):
    config, model, params, _ = interop.from_pretrained(saved("olmo_hybrid-unplaced")[1])
    named = configs.override(config, {"model.pattern": ("attention", "delta") * 2})
    delta = {"kind": "gated_deltanet"} | dict(config.model.mixers.gated_deltanet)
    named.model.mixers = dict(attention=config.model.mixers.attention, delta=delta)
    other = models.build(configs.resolve(named), V)
    fresh = jax.jit(other.initial_params)(0)
    kind = interop.save_pretrained(tmp_path / "x", named, other, fresh)
    assert kind == "olmo_hybrid"
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    near(theirs(back), ours(other, fresh))


def test_a_name_on_the_hub_is_taken_from_its_cache(saved, tmp_path, monkeypatch):
    _, folder = saved("mamba")
    model = tmp_path / "models--some--mamba"
    shutil.copytree(folder, model / "snapshots" / "0123")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = interop.from_pretrained("some/mamba")
    assert found.folder == model / "snapshots" / "0123"
    want = interop.from_pretrained(folder).params
    jax.tree.map(np.testing.assert_array_equal, found.params, want)


def test_a_name_that_is_nowhere_says_so(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="is no folder, nor in the hub's cache"):
        interop.from_pretrained("nobody/nothing")
    with pytest.raises(ConfigError, match="no such folder"):
        interop.from_pretrained("a/b/c/d")


def test_infinity_in_a_config_is_a_number(saved):
    stored = json.loads((saved("mamba2")[1] / "config.json").read_text())
    values, problems = interop.FAMILIES["mamba2"].read(stored)
    assert not problems
    limits = {"__float__": "Infinity"}
    for limit, wrong in ((limits, False), (math.inf, False), (0.1, True)):
        changed = stored | {"time_step_limit": [0.0, limit]}
        assert bool(interop.FAMILIES["mamba2"].read(changed)[1]) == wrong
    assert values["n_groups"] == 2
