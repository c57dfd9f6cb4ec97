"""GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373)."""

from lm.interop.family import Family, words
from lm.interop.fields import (
    ATTENTION,
    GELU,
    attention,
    choice,
    inverse,
    rope,
    rope_fields,
    rotary,
)
from lm.interop.layout import Table, by_head, dense, norm, same


def _rotary(c: dict) -> float:
    """The share of a head's features that turn, by either name of the field."""
    share = rope(c).get("partial_rotary_factor")
    share = c["rotary_pct"] if share is None else share
    return 0.25 if share is None else share


def _settings(c: dict) -> dict:
    parallel = choice(
        "use_parallel_residual",
        c["use_parallel_residual"],
        {True: "parallel", False: "shared"},
    )
    return attention(
        heads=c["num_attention_heads"],
        rope_fraction=_rotary(c),
        **rotary(c | {"rope_theta": c["rotary_emb_base"]}),
        bias=c["attention_bias"],
    ) | {
        "model.block": parallel,
        "model.width": c["hidden_size"],
        "model.depth": c["num_hidden_layers"],
        "model.mlp": choice("hidden_act", c["hidden_act"], GELU),
        "model.mlp_width": c["intermediate_size"],
        "model.bias": True,
        "model.norm": "layernorm",
        "model.norm_eps": c["layer_norm_eps"],
        "model.tied": c["tie_word_embeddings"],
    }


def _fields(m: dict) -> dict:
    share = {"partial_rotary_factor": m.get(f"{ATTENTION}rope_fraction")}
    return {
        "hidden_size": m["model.width"],
        "num_hidden_layers": m["model.depth"],
        "num_attention_heads": m.get(f"{ATTENTION}heads"),
        "intermediate_size": m["model.mlp_width"],
        "hidden_act": inverse(GELU, m["model.mlp"]),
        "layer_norm_eps": m["model.norm_eps"],
        "use_parallel_residual": m["model.block"] == "parallel",
        "attention_bias": bool(m.get(f"{ATTENTION}bias")),
        "max_position_embeddings": m["data.context"],
        "rope_parameters": rope_fields(m) | share,
        "tie_word_embeddings": m["model.tied"],
    }


def _block(c: dict) -> Table:
    heads, qkv = c["num_attention_heads"], "attention.query_key_value"
    table = {"mixer/qkv/kernel": by_head(f"{qkv}.weight", heads, 3, True)}
    if c["attention_bias"]:
        table["mixer/qkv/bias"] = by_head(f"{qkv}.bias", heads, 3, False)
    return (
        norm("mixer_norm", "input_layernorm", bias=True)
        | table
        | dense("mixer/output", "attention.dense", c["attention_bias"])
        | norm("mlp_norm", "post_attention_layernorm", bias=True)
        | dense("mlp/wi", "mlp.dense_h_to_4h", bias=True)
        | dense("mlp/wo", "mlp.dense_4h_to_h", bias=True)
    )


GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    trunk="gpt_neox.",
    layer="layers.{}.{}",
    used={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "attention_bias": True,
        "rope_parameters": None,
        "rope_scaling": None,
        "rotary_pct": None,
        "rotary_emb_base": None,
        "tie_word_embeddings": False,
    },
    fixed={},
    free=words(
        """attention_dropout hidden_dropout classifier_dropout is_decoder
        max_position_embeddings"""
    ),
    settings=_settings,
    fields=_fields,
    block=_block,
    rest=lambda c: {
        "embedding": same("embed_in.weight"),
        **norm("norm", "final_layer_norm", bias=True),
    },
    head="embed_out.weight",
    buffers=(
        ".attention.bias",
        ".attention.masked_bias",
        ".attention.rotary_emb.inv_freq",
    ),
)
