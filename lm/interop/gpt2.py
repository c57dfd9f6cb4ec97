"""GPT-2 (Radford et al. 2019)."""

from lm.interop.family import Family, words
from lm.interop.fields import ATTENTION, GELU, attention, choice, inverse
from lm.interop.layout import Table, dense, norm, same


def _settings(c: dict) -> dict:
    return attention(heads=c["n_head"], position="none", bias=True) | {
        "data.context": c["n_positions"],
        "model.width": c["n_embd"],
        "model.depth": c["n_layer"],
        "model.mlp": choice("activation_function", c["activation_function"], GELU),
        "model.mlp_width": c["n_inner"] or 4 * c["n_embd"],
        "model.bias": True,
        "model.norm": "layernorm",
        "model.norm_eps": c["layer_norm_epsilon"],
        "model.position": "learned",
        "model.tied": c["tie_word_embeddings"],
    }


def _fields(m: dict) -> dict:
    return {
        "n_positions": m["data.context"],
        "n_embd": m["model.width"],
        "n_layer": m["model.depth"],
        "n_head": m.get(f"{ATTENTION}heads"),
        "n_inner": m["model.mlp_width"],
        "activation_function": inverse(GELU, m["model.mlp"]),
        "layer_norm_epsilon": m["model.norm_eps"],
        "tie_word_embeddings": m["model.tied"],
    }


def _block(c: dict) -> Table:
    return (
        norm("mixer_norm", "ln_1", bias=True)
        | dense("mixer/qkv", "attn.c_attn", bias=True, transpose=False)
        | dense("mixer/output", "attn.c_proj", bias=True, transpose=False)
        | norm("mlp_norm", "ln_2", bias=True)
        | dense("mlp/wi", "mlp.c_fc", bias=True, transpose=False)
        | dense("mlp/wo", "mlp.c_proj", bias=True, transpose=False)
    )


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    trunk="transformer.",
    layer="h.{}.{}",
    used={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    fixed={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
    free=words(
        """resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj n_ctx
        summary_activation summary_proj_to_labels summary_first_dropout
        reorder_and_upcast_attn"""
    ),
    settings=_settings,
    fields=_fields,
    block=_block,
    rest=lambda c: {
        "embedding": same("wte.weight"),
        "positions_embedding": same("wpe.weight"),
        **norm("norm", "ln_f", bias=True),
    },
    buffers=(".attn.bias", ".attn.masked_bias"),
)
