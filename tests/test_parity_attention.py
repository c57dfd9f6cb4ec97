"""Attention against the layers of transformers, forward and gradient."""

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.masking_utils import (
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.gemma2 import modeling_gemma2 as gemma2
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from tests.oracles import B, D, T, compare, filled


def _dense(p: dict, *names: str) -> dict:
    """Layers of torch side by side as one of ours."""
    kernels = [p[f"{name}.weight"].T for name in names]
    biases = [p[f"{name}.bias"] for name in names if f"{name}.bias" in p]
    bias = {"bias": np.concatenate(biases)} if biases else {}
    return {"kernel": np.concatenate(kernels, 1)} | bias


def _attention(p: dict) -> dict:
    return {
        "qkv": _dense(p, "q_proj", "k_proj", "v_proj"),
        "output": _dense(p, "o_proj"),
    }


def _normed(p: dict) -> dict:
    norms = {name: {"scale": p[f"{name}.weight"]} for name in ("q_norm", "k_norm")}
    return _attention(p) | norms


def _regrouped(weight, H: int, parts: int):
    """[H, parts, K, ...] rows of torch in the order [parts, H, K, ...]."""
    x = weight.reshape(H, parts, -1, *weight.shape[1:]).swapaxes(0, 1)
    return x.reshape(weight.shape)


def _fused(p: dict, H: int = 4) -> dict:
    """query_key_value of GPT-NeoX and Bloom: the parts of each head side by side."""
    turn = lambda x: _regrouped(x, H, 3)
    return {
        "qkv": {
            "kernel": turn(p["query_key_value.weight"]).T,
            "bias": turn(p["query_key_value.bias"]),
        },
        "output": _dense(p, "dense"),
    }


def _at():
    return torch.arange(T)[None].expand(B, T)


def _rotary(kind, rotary, mask, config, plus_one=()):
    """The attention class `kind` as a function of x alone, and its parameters.

    To those in `plus_one` the layer adds 1: it is given them less 1, so that what is
    compared is the sum.
    """
    module = kind(config, layer_idx=0).eval()
    named = filled(module)

    def reference(x):
        given = named | {name: named[name] - 1 for name in plus_one}
        options = {
            "position_embeddings": rotary(config)(x, _at()),
            "attention_mask": mask(config, x, None, None, _at()),
        }
        return torch.func.functional_call(module, given, (x,), options)[:1]

    return reference, named


SIZES = {"hidden_size": D, "num_attention_heads": 4, "attn_implementation": "eager"}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_llama_attention(kv_heads):
    config = LlamaConfig(**SIZES, num_key_value_heads=kv_heads)
    kinds = (llama.LlamaAttention, llama.LlamaRotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    compare("attention", {"kv_heads": kv_heads}, reference, named, _attention)


@pytest.mark.parametrize("window", [1, 4, 12])
def test_a_window_is_mistral_attention(window):
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window)
    kinds = (mistral.MistralAttention, mistral.MistralRotaryEmbedding)
    reference, named = _rotary(*kinds, create_sliding_window_causal_mask, config)
    fields = {"kv_heads": 2, "window": window}
    compare("attention", fields, reference, named, _attention)


def test_attention_is_gpt2_attention():
    config = GPT2Config(n_embd=D, n_head=4, attn_implementation="eager")
    module = GPT2Attention(config, layer_idx=0).eval()

    def reference(x):
        mask = create_causal_mask(config, x, None, None)
        return module(x, attention_mask=mask)[:1]

    def ours(p):
        names = {"qkv": "c_attn", "output": "c_proj"}
        pair = lambda name: {"kernel": p[f"{name}.weight"], "bias": p[f"{name}.bias"]}
        return {own: pair(name) for own, name in names.items()}

    fields = {"position": "none", "bias": True}
    compare("attention", fields, reference, filled(module), ours)


# Both forms, all at once and in blocks, where an option changes the logits.
@pytest.mark.parametrize("block", [None, 4])
def test_norms_of_heads_are_qwen3_attention(block):
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=6)
    kinds = (qwen3.Qwen3Attention, qwen3.Qwen3RotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    fields = {"kv_heads": 2, "head_width": 6, "qk_norm": "rms_head", "block": block}
    compare("attention", fields, reference, named, _normed)


def test_norms_over_heads_are_olmo2_attention():
    config = Olmo2Config(**SIZES, num_key_value_heads=2, rms_norm_eps=1e-6)
    kinds = (olmo2.Olmo2Attention, olmo2.Olmo2RotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    fields = {"kv_heads": 2, "qk_norm": "rms_all"}
    compare("attention", fields, reference, named, _normed)


@pytest.mark.parametrize("block", [None, 4])
def test_a_soft_cap_is_gemma2_attention(block):
    sizes = {"num_key_value_heads": 2, "head_dim": 4, "query_pre_attn_scalar": 1}
    config = Gemma2Config(**SIZES, **sizes, attn_logit_softcapping=2.0)
    kinds = (gemma2.Gemma2Attention, gemma2.Gemma2RotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    fields = {"kv_heads": 2, "soft_cap": 2.0, "scale": 1.0, "block": block}
    compare("attention", fields, reference, named, _attention)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("window", [None, 5])
def test_sinks_are_gpt_oss_attention(window, block):
    kind = "full_attention" if window is None else "sliding_attention"
    config = GptOssConfig(
        **SIZES,
        num_key_value_heads=2,
        head_dim=4,
        attention_bias=True,
        sliding_window=window,
        num_hidden_layers=1,
        layer_types=[kind],
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    mask = create_causal_mask if window is None else create_sliding_window_causal_mask
    kinds = (gpt_oss.GptOssAttention, gpt_oss.GptOssRotaryEmbedding, mask)
    reference, named = _rotary(*kinds, config)
    fields = {"kv_heads": 2, "bias": True, "sinks": True, "rope_theta": 500.0}
    fields |= {"window": window, "block": block}
    ours = lambda p: _attention(p) | {"sink_bias": p["sinks"]}
    compare("attention", fields, reference, named, ours)


@pytest.mark.parametrize("block", [None, 4])
def test_a_gate_is_qwen3_next_attention(block):
    H, K = 4, 8
    config = Qwen3NextConfig(**SIZES, num_key_value_heads=2, head_dim=K)
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    kinds = (
        qwen3_next.Qwen3NextAttention,
        qwen3_next.Qwen3NextRotaryEmbedding,
        create_causal_mask,
    )
    norms = ("q_norm.weight", "k_norm.weight")
    reference, named = _rotary(*kinds, config, plus_one=norms)

    def ours(p):
        rows = _regrouped(p["q_proj.weight"], H, 2)
        p = p | {"q_proj.weight": rows[: H * K], "gate.weight": rows[H * K :]}
        return _normed(p) | {"gate": _dense(p, "gate")}

    fields = {"kv_heads": 2, "head_width": K, "qk_norm": "rms_head", "gate": "sigmoid"}
    fields |= {"rope_fraction": 0.25, "block": block}
    compare("attention", fields, reference, named, ours)


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_a_part_that_turns_is_gpt_neox_attention(fraction):
    rope = {"rope_type": "default", "rope_theta": 100.0}
    rope["partial_rotary_factor"] = fraction
    sizes = SIZES | {"num_attention_heads": 2}
    config = GPTNeoXConfig(**sizes, rope_parameters=rope)
    kinds = (neox.GPTNeoXAttention, neox.GPTNeoXRotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    fields = {"heads": 2, "bias": True, "rope_theta": 100.0, "rope_fraction": fraction}
    compare("attention", fields, reference, named, lambda p: _fused(p, 2))


@pytest.mark.parametrize("rotary_dim", [4, 8])
def test_neighbours_that_turn_are_gptj_attention(rotary_dim):
    config = GPTJConfig(
        n_embd=D,
        n_head=2,
        rotary_dim=rotary_dim,
        attn_implementation="eager",
    )
    module = GPTJAttention(config, layer_idx=0).eval()

    def reference(x):
        mask = create_causal_mask(config, x, None, None, _at())
        return module(x, attention_mask=mask, position_ids=_at())[:1]

    def ours(p):
        return {
            "qkv": _dense(p, "q_proj", "k_proj", "v_proj"),
            "output": _dense(p, "out_proj"),
        }

    fields = {"heads": 2, "position": "rope_interleaved"}
    fields["rope_fraction"] = rotary_dim / 8
    compare("attention", fields, reference, filled(module), ours)


@pytest.mark.parametrize("block", [None, 4])
def test_alibi_is_bloom_attention(block):
    config = BloomConfig(hidden_size=D, n_head=4, attn_implementation="eager")
    module = bloom.BloomAttention(config, layer_idx=0).eval()

    def reference(x):
        mask = create_causal_mask(config, x, None, None, _at())
        alibi = bloom.build_alibi_tensor(torch.ones(B, T), 4, x.dtype)
        return module(x, torch.zeros_like(x), alibi, mask)[:1]

    fields = {"position": "alibi", "bias": True, "block": block}
    compare("attention", fields, reference, filled(module), _fused)


PARITY = {
    "attention": (
        "transformers: Llama, GPT-2, Mistral, Qwen3, OLMo 2, Gemma 2, gpt-oss, "
        "Qwen3-Next, GPT-NeoX, GPT-J, Bloom",
        (
            test_attention_is_llama_attention,
            test_attention_is_gpt2_attention,
            test_a_window_is_mistral_attention,
            test_norms_of_heads_are_qwen3_attention,
            test_norms_over_heads_are_olmo2_attention,
            test_a_soft_cap_is_gemma2_attention,
            test_sinks_are_gpt_oss_attention,
            test_a_gate_is_qwen3_next_attention,
            test_a_part_that_turns_is_gpt_neox_attention,
            test_neighbours_that_turn_are_gptj_attention,
            test_alibi_is_bloom_attention,
        ),
    ),
}
