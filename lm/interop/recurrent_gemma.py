"""RecurrentGemma (arXiv 2404.07839): Griffin's blocks (arXiv 2402.19427) under Gemma's
embedding, which is scaled, and its head, whose logits are capped."""

import jax.numpy as jnp

from lm.errors import ConfigError
from lm.interop.family import Family, words
from lm.interop.fields import (
    ATTENTION,
    attention,
    choice,
    rope,
    rope_fields,
    rotary,
    shortest,
)
from lm.interop.layout import (
    Table,
    by_heads,
    dense,
    fused,
    same,
    shifted_norm,
    taps,
)

RGLRU = "model.mixers.rglru."
KINDS = {"recurrent": "rglru", "attention": "attention"}


def _scale(width: int) -> float:
    """sqrt(D), which transformers holds in bfloat16."""
    return float(jnp.bfloat16(width**0.5))


def _pattern(c: dict) -> tuple[str, ...]:
    """Our names of a repeat of layers, as short as it can be."""
    kinds = c["block_types"] or ("recurrent", "recurrent", "attention")
    names = tuple(choice("block_types", kind, KINDS) for kind in kinds)
    return shortest(names, c["num_hidden_layers"])


def _settings(c: dict) -> dict:
    heads, width = c["num_attention_heads"], c["hidden_size"]
    if width % heads:
        raise ConfigError(f"hidden_size={width} is no multiple of {heads} heads")
    pattern = _pattern(c)
    turned = rope(c)
    choice(
        "rope_type", turned["rope_type"], {"default": True}
    )  # transformers' only one
    share = turned.get("partial_rotary_factor", c.get("partial_rotary_factor"))
    keys = {}
    if "attention" in pattern:
        keys = attention(
            heads=heads,
            kv_heads=c["num_key_value_heads"] or heads,
            window=c["attention_window_size"],
            bias=c["attention_bias"],
            output_bias=True,
            **rotary(c),
            rope_fraction=0.5 if share is None else share,
        )
    if "rglru" in pattern:
        keys[f"{RGLRU}heads"] = heads
        keys[f"{RGLRU}lru_width"] = c["lru_width"] or width
        keys[f"{RGLRU}conv_width"] = c["conv1d_width"]
    return keys | {
        "model.pattern": pattern,
        "model.width": width,
        "model.depth": c["num_hidden_layers"],
        "model.mlp": "geglu",
        "model.mlp_width": c["intermediate_size"] // 2,
        "model.bias": True,
        "model.norm_eps": c["rms_norm_eps"],
        "model.embedding_scale": _scale(width),
        "model.logit_cap": c["logits_soft_cap"],
        "model.tied": c["tie_word_embeddings"],
    }


def _fields(m: dict) -> dict:
    names = {ours: theirs for theirs, ours in KINDS.items()}
    heads = m.get(f"{ATTENTION}heads") or m.get(f"{RGLRU}heads") or 1
    fields = {
        "block_types": [names.get(name, name) for name in m["model.pattern"]],
        "hidden_size": m["model.width"],
        "num_hidden_layers": m["model.depth"],
        "num_attention_heads": heads,
        "intermediate_size": 2 * m["model.mlp_width"],
        "rms_norm_eps": m["model.norm_eps"],
        "logits_soft_cap": m["model.logit_cap"],
        "tie_word_embeddings": m["model.tied"],
    }
    if "rglru" in m["model.pattern"]:
        fields["lru_width"] = m.get(f"{RGLRU}lru_width") or m["model.width"]
        fields["conv1d_width"] = m.get(f"{RGLRU}conv_width")
    if "attention" in m["model.pattern"]:
        share = {"partial_rotary_factor": m.get(f"{ATTENTION}rope_fraction")}
        fields |= {
            "num_key_value_heads": m.get(f"{ATTENTION}kv_heads") or heads,
            "attention_window_size": m.get(f"{ATTENTION}window"),
            "attention_bias": bool(m.get(f"{ATTENTION}bias")),
            "rope_parameters": rope_fields(m) | share,
        }
    return fields


def _block(c: dict) -> dict[str, Table]:
    """{mixer: the table of its layers}."""
    heads = c["num_attention_heads"]
    groups, width = c["num_key_value_heads"] or heads, c["hidden_size"] // heads
    names = [f"temporal_block.{part}_proj" for part in "qkv"]
    sizes = [n * width for n in (heads, groups, groups)]
    shared = (
        shifted_norm("mixer_norm", "temporal_pre_norm")
        | shifted_norm("mlp_norm", "channel_pre_norm")
        | dense("mlp/wg", "mlp_block.gate_proj", True)
        | dense("mlp/wi", "mlp_block.up_proj", True)
        | dense("mlp/wo", "mlp_block.down_proj", True)
    )
    unit, lru = "temporal_block", "temporal_block.rg_lru"
    return {
        "attention": shared
        | fused("mixer/qkv", names, sizes, c["attention_bias"])
        | dense("mixer/output", f"{unit}.o_proj", True),
        "rglru": shared
        | dense("mixer/gate", f"{unit}.linear_y", True)
        | dense("mixer/input", f"{unit}.linear_x", True)
        | dense("mixer/output", f"{unit}.linear_out", True)
        | {
            "mixer/conv_kernel": taps(f"{unit}.conv_1d.weight"),
            "mixer/conv_bias": same(f"{unit}.conv_1d.bias"),
            "mixer/decay": same(f"{lru}.recurrent_param"),
            "mixer/input_gate_kernel": same(f"{lru}.input_gate_weight"),
            "mixer/input_gate_bias": by_heads(f"{lru}.input_gate_bias", heads),
            "mixer/recurrence_gate_kernel": same(f"{lru}.recurrent_gate_weight"),
            "mixer/recurrence_gate_bias": by_heads(f"{lru}.recurrent_gate_bias", heads),
        },
    }


def _rest(c: dict) -> Table:
    table = {"embedding": same("embed_tokens.weight")}
    return table | shifted_norm("norm", "final_norm")


RECURRENT_GEMMA = Family(
    model_type="recurrent_gemma",
    architecture="RecurrentGemmaForCausalLM",
    trunk="model.",
    layer="layers.{}.{}",
    used={
        "vocab_size": 256_000,
        "hidden_size": 2560,
        "intermediate_size": 7680,
        "num_hidden_layers": 26,
        "num_attention_heads": 10,
        "num_key_value_heads": None,
        "lru_width": None,
        "attention_window_size": 2048,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "rms_norm_eps": 1e-6,
        "rope_parameters": None,
        "rope_theta": None,
        "rope_scaling": None,
        "partial_rotary_factor": None,
        "block_types": None,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
    fixed={"hidden_activation": ("gelu_pytorch_tanh",)},
    free=words(
        """attention_dropout w_init_variance_scale final_w_init_variance_scale
        layers_block_type head_dim"""
    ),
    settings=_settings,
    fields=_fields,
    block=_block,
    rest=_rest,
    buffers=(".rotary_emb.inv_freq",),
)
