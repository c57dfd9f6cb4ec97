"""Llama (arXiv 2302.13971); Mistral, Qwen3 and OLMo 2 (arXiv 2501.00656), which differ
in a field or two."""

from lm.interop.family import Family
from lm.interop.fields import (
    ATTENTION,
    GATED,
    attention,
    choice,
    inverse,
    rope_fields,
    rotary,
)
from lm.interop.layout import Table, dense, fused, norm, same


def _head_width(c: dict) -> int:
    return c["head_dim"] or c["hidden_size"] // c["num_attention_heads"]


def _llama_settings(c: dict) -> dict:
    heads = c["num_attention_heads"]
    keys = attention(
        heads=heads,
        kv_heads=c["num_key_value_heads"] or heads,
        head_width=_head_width(c),
        **rotary(c),
        bias=c.get("attention_bias", False),
    )
    return keys | {
        "model.width": c["hidden_size"],
        "model.depth": c["num_hidden_layers"],
        "model.mlp": choice("hidden_act", c["hidden_act"], GATED),
        "model.mlp_width": c["intermediate_size"],
        "model.bias": c.get("mlp_bias", False),
        "model.norm_eps": c["rms_norm_eps"],
        "model.tied": c["tie_word_embeddings"],
    }


def _mistral_settings(c: dict) -> dict:
    return _llama_settings(c) | {f"{ATTENTION}window": c["sliding_window"]}


def _qwen3_settings(c: dict) -> dict:
    window = c["sliding_window"] if c["use_sliding_window"] else None
    choice("use_sliding_window", window, {None: True})
    kinds = tuple(sorted(set(c["layer_types"] or ("full_attention",))))
    choice("layer_types", kinds, {("full_attention",): True})
    return _llama_settings(c) | _qk_norm(c, "rms_head")


def _qk_norm(c: dict, kind: str) -> dict:
    return {
        f"{ATTENTION}qk_norm": kind,
        f"{ATTENTION}qk_norm_eps": c["rms_norm_eps"],
    }


def olmo2_settings(c: dict) -> dict:
    return _llama_settings(c) | _qk_norm(c, "rms_all") | {"model.block": "olmo"}


def llama_fields(m: dict) -> dict:
    heads = m.get(f"{ATTENTION}heads") or 1
    return {
        "hidden_size": m["model.width"],
        "num_hidden_layers": m["model.depth"],
        "num_attention_heads": heads,
        "num_key_value_heads": m.get(f"{ATTENTION}kv_heads") or heads,
        "head_dim": m.get(f"{ATTENTION}head_width") or m["model.width"] // heads,
        "hidden_act": inverse(GATED, m["model.mlp"]),
        "intermediate_size": m["model.mlp_width"],
        "rms_norm_eps": m["model.norm_eps"],
        "max_position_embeddings": m["data.context"],
        "rope_parameters": rope_fields(m),
        "tie_word_embeddings": m["model.tied"],
        "attention_bias": bool(m.get(f"{ATTENTION}bias")),
        "mlp_bias": m["model.bias"],
        "sliding_window": m.get(f"{ATTENTION}window"),
    }


def _llama_block(c: dict) -> Table:
    bias, width = c.get("attention_bias", False), _head_width(c)
    heads = c["num_attention_heads"]
    groups = c["num_key_value_heads"] or heads
    names = [f"self_attn.{part}_proj" for part in "qkv"]
    sizes = [n * width for n in (heads, groups, groups)]
    mlp_bias = c.get("mlp_bias", False)
    return (
        norm("mixer_norm", "input_layernorm")
        | fused("mixer/qkv", names, sizes, bias)
        | dense("mixer/output", "self_attn.o_proj", bias)
        | norm("mlp_norm", "post_attention_layernorm")
        | dense("mlp/wg", "mlp.gate_proj", mlp_bias)
        | dense("mlp/wi", "mlp.up_proj", mlp_bias)
        | dense("mlp/wo", "mlp.down_proj", mlp_bias)
    )


def _qwen3_block(c: dict) -> Table:
    return (
        _llama_block(c)
        | norm("mixer/q_norm", "self_attn.q_norm")
        | norm("mixer/k_norm", "self_attn.k_norm")
    )


def olmo2_block(c: dict) -> Table:
    """Its norms are of what attention and the MLP give."""
    return (
        _qwen3_block(c)
        | norm("mixer_norm", "post_attention_layernorm")
        | norm("mlp_norm", "post_feedforward_layernorm")
    )


_LLAMA_USED = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def _llama(model_type: str, architecture: str, settings, block, used, **more) -> Family:
    names = {"sliding_window", *_LLAMA_USED, *used, "max_position_embeddings"}
    return Family(
        model_type=model_type,
        architecture=architecture,
        trunk="model.",
        layer="layers.{}.{}",
        used=_LLAMA_USED | used,
        fixed=more.get("fixed", {}),
        free=frozenset(("max_position_embeddings", "attention_dropout"))
        | more.get("free", set()),
        settings=settings,
        fields=lambda m: {k: v for k, v in llama_fields(m).items() if k in names},
        block=block,
        rest=lambda c: {
            "embedding": same("embed_tokens.weight"),
            **norm("norm", "norm"),
        },
        buffers=(".rotary_emb.inv_freq",),
    )


LLAMA = _llama(
    "llama",
    "LlamaForCausalLM",
    _llama_settings,
    _llama_block,
    {"attention_bias": False, "mlp_bias": False},
    fixed={"sliding_window": (None,)},
    free={"pretraining_tp"},
)
MISTRAL = _llama(
    "mistral",
    "MistralForCausalLM",
    _mistral_settings,
    _llama_block,
    {"intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": 4096},
)
QWEN3 = _llama(
    "qwen3",
    "Qwen3ForCausalLM",
    _qwen3_settings,
    _qwen3_block,
    {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "attention_bias": False,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "layer_types": None,
    },
    free={"max_window_layers"},
)
OLMO2 = _llama(
    "olmo2",
    "Olmo2ForCausalLM",
    olmo2_settings,
    olmo2_block,
    {"vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False},
    fixed={"sliding_window": (None,)},
)
