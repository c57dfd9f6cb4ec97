"""BERT (Devlin et al. 2018, arXiv 1810.04805), with its head or without."""

from lm.interop.family import Family, words
from lm.interop.fields import ATTENTION, GELU, attention, choice, inverse
from lm.interop.layout import Table, dense, fused, norm, same

HEADS = {"BertForMaskedLM": True, "BertForPreTraining": True, "BertModel": False}


def _has_head(c: dict) -> bool:
    names = c["architectures"] or []
    return choice("architectures", names[0] if names else None, HEADS)


def _settings(c: dict) -> dict:
    head, length = _has_head(c), c["max_position_embeddings"]
    keys = attention(
        heads=c["num_attention_heads"], position="none", bias=True, causal=False
    )
    return keys | {
        "data.task.kind": "masked",
        "data.task.length": length,
        "data.context": length,
        "model.width": c["hidden_size"],
        "model.depth": c["num_hidden_layers"],
        "model.block": "post_norm",
        "model.mlp": choice("hidden_act", c["hidden_act"], GELU),
        "model.mlp_width": c["intermediate_size"],
        "model.bias": True,
        "model.norm": "layernorm",
        "model.norm_eps": c["layer_norm_eps"],
        "model.position": "learned",
        "model.token_types": c["type_vocab_size"],
        "model.embedding_norm": True,
        "model.tied": c["tie_word_embeddings"] or not head,
        "model.output_layer": "transform" if head else "linear",
        "model.output_bias": head,
    }


def _fields(m: dict) -> dict:
    head = m.get("model.output_layer") == "transform"
    return {
        "architectures": ["BertForMaskedLM" if head else "BertModel"],
        "max_position_embeddings": m["data.context"],
        "hidden_size": m["model.width"],
        "num_hidden_layers": m["model.depth"],
        "num_attention_heads": m.get(f"{ATTENTION}heads"),
        "intermediate_size": m["model.mlp_width"],
        "hidden_act": inverse(GELU, m["model.mlp"]),
        "type_vocab_size": m["model.token_types"] or None,
        "layer_norm_eps": m["model.norm_eps"],
        "tie_word_embeddings": m["model.tied"],
    }


def _block(c: dict) -> Table:
    names = [f"attention.self.{name}" for name in ("query", "key", "value")]
    return (
        fused("mixer/qkv", names, 3 * [c["hidden_size"]], bias=True)
        | dense("mixer/output", "attention.output.dense", bias=True)
        | norm("mixer_norm", "attention.output.LayerNorm", bias=True)
        | dense("mlp/wi", "intermediate.dense", bias=True)
        | dense("mlp/wo", "output.dense", bias=True)
        | norm("mlp_norm", "output.LayerNorm", bias=True)
    )


def _rest(c: dict) -> Table:
    # transformers has the bias twice: as one if the head is tied, else it uses one.
    bias = "cls.predictions.bias"
    if not c["tie_word_embeddings"]:
        bias = "cls.predictions.decoder.bias"
    return {
        "embedding": same("embeddings.word_embeddings.weight"),
        "positions_embedding": same("embeddings.position_embeddings.weight"),
        "types_embedding": same("embeddings.token_type_embeddings.weight"),
        **norm("embed_norm", "embeddings.LayerNorm", bias=True),
        **dense("head_transform", "cls.predictions.transform.dense", bias=True),
        **norm("head_norm", "cls.predictions.transform.LayerNorm", bias=True),
        "head_bias": same(bias),
    }


BERT = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    trunk="bert.",
    layer="encoder.layer.{}.{}",
    used={
        "architectures": ["BertForMaskedLM"],
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    fixed={"position_embedding_type": ("absolute",), "is_decoder": (False,)},
    free=words("hidden_dropout_prob attention_probs_dropout_prob classifier_dropout"),
    settings=_settings,
    fields=_fields,
    block=_block,
    rest=_rest,
    head="cls.predictions.decoder.weight",
    outside=("cls.",),
    # The pooler is read by itself (lm/encoder.py). Of the two biases one is unused.
    buffers=(
        "embeddings.position_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        "cls.predictions.decoder.bias",
        "cls.predictions.bias",
    ),
)
