"""OLMo Hybrid: Gated DeltaNet (arXiv 2412.06464) beside the attention of OLMo 2, which
is normed after and may have no positions."""

from lm.errors import ConfigError
from lm.interop.family import Family, words
from lm.interop.fields import ATTENTION, choice, inverse, repeated, rope, shortest
from lm.interop.layout import Table, dense, fused, norm, same, taps
from lm.interop.llama import llama_fields, olmo2_block, olmo2_settings

DELTA = "model.mixers.gated_deltanet."
KINDS = {"linear_attention": "gated_deltanet", "full_attention": "attention"}
EIGENVALUES = {True: "signed", False: "positive"}


def _kinds(c: dict) -> list[str]:
    """Their name of each layer; by default every fourth is attention, or the last."""
    if c["layer_types"] is not None:
        return c["layer_types"]
    depth = c["num_hidden_layers"]
    kinds = [
        "full_attention" if i % 4 == 3 else "linear_attention" for i in range(depth)
    ]
    return kinds if depth > 3 else [*kinds[:-1], "full_attention"]


def _linear(c: dict) -> tuple[int, int, int]:
    """(heads, width of a head's keys, of its values) of the linear layers."""
    heads = c["linear_num_key_heads"] or c["num_attention_heads"]
    values = c["linear_num_value_heads"] or c["num_attention_heads"]
    if heads != values:
        raise ConfigError(
            f"linear_num_value_heads={values} is not linear_num_key_heads={heads}"
        )
    keys = c["linear_key_head_dim"] or int(0.75 * c["hidden_size"] / heads)
    return heads, keys, c["linear_value_head_dim"] or 2 * keys


def _unplaced(c: dict) -> bool:
    """Whether there are no rotary positions: their base is given as null."""
    given = c["rope_scaling"] or c["rope_parameters"] or {}
    return given.get("rope_theta", c["rope_theta"]) is None


def _settings(c: dict) -> dict:
    depth, width = c["num_hidden_layers"], c["hidden_size"]
    names = [choice("layer_types", kind, KINDS) for kind in _kinds(c)]
    if len(names) != depth or len(set(names)) < len(KINDS):
        raise ConfigError(
            f"layer_types={c['layer_types']!r} must name {depth} layers "
            f"(num_hidden_layers) and both of {', '.join(KINDS)}"
        )
    choice("hidden_act", c["hidden_act"], {"silu": True, "swish": True})
    position = {}
    if _unplaced(c):
        choice("rope_type", rope(c)["rope_type"], {"default": True, None: True})
        c = c | {"rope_parameters": None, "rope_scaling": None}
        position = {f"{ATTENTION}position": "none"}
    keys = olmo2_settings(c) | position
    heads, key_width, value_width = _linear(c)
    signed = choice(
        "linear_allow_neg_eigval", c["linear_allow_neg_eigval"], EIGENVALUES
    )
    return keys | {
        "model.pattern": shortest(names, depth),
        f"{DELTA}heads": heads,
        f"{DELTA}key_expand": key_width * heads / width,
        f"{DELTA}value_expand": value_width * heads / width,
        f"{DELTA}conv_width": c["linear_conv_kernel_dim"],
        f"{DELTA}eigenvalues": signed,
    }


def _fields(m: dict) -> dict:
    names = {ours: theirs for theirs, ours in KINDS.items()}
    kinds = repeated(m["model.pattern"], m["model.depth"])
    heads = m.get(f"{DELTA}heads") or 1
    size = lambda name: round((m.get(f"{DELTA}{name}") or 1) * m["model.width"] / heads)
    fields = llama_fields(m)
    if m.get(f"{ATTENTION}position") == "none":
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": None}
    fields |= {
        "rope_theta": None,
        "layer_types": [names.get(name, name) for name in kinds],
        "linear_num_key_heads": heads,
        "linear_num_value_heads": heads,
        "linear_key_head_dim": size("key_expand"),
        "linear_value_head_dim": size("value_expand"),
        "linear_conv_kernel_dim": m.get(f"{DELTA}conv_width"),
        "linear_allow_neg_eigval": inverse(EIGENVALUES, m.get(f"{DELTA}eigenvalues")),
    }
    return {name: value for name, value in fields.items() if name in USED}


def _block(c: dict) -> dict[str, Table]:
    """{mixer: the table of its layers}."""
    heads, keys, values = _linear(c)
    unit, sizes = "linear_attn", [heads * keys, heads * keys, heads * values]
    attention = olmo2_block(c)
    mlp = {name: t for name, t in attention.items() if name.startswith("mlp/")}
    return {
        "attention": attention,
        "gated_deltanet": mlp
        | norm("mixer_norm", "attention_layer_norm")
        | norm("mlp_norm", "feedforward_layer_norm")
        | fused("mixer/qkv", [f"{unit}.{part}_proj" for part in "qkv"], sizes)
        | dense("mixer/beta", f"{unit}.b_proj")
        | dense("mixer/decay_gate", f"{unit}.a_proj")
        | dense("mixer/gate", f"{unit}.g_proj")
        | dense("mixer/output", f"{unit}.o_proj")
        | norm("mixer/norm", f"{unit}.o_norm")
        | {
            "mixer/conv_kernel": taps(
                *(f"{unit}.{part}_conv1d.weight" for part in "qkv"), sizes=sizes
            ),
            "mixer/A_log": same(f"{unit}.A_log"),
            "mixer/dt_bias": same(f"{unit}.dt_bias"),
        },
    }


def _rest(c: dict) -> Table:
    return {"embedding": same("embed_tokens.weight")} | norm("norm", "norm")


USED = {
    "vocab_size": 100352,
    "hidden_size": 3840,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 30,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "layer_types": None,
    "linear_num_key_heads": None,
    "linear_num_value_heads": None,
    "linear_key_head_dim": None,
    "linear_value_head_dim": None,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
}
OLMO_HYBRID = Family(
    model_type="olmo_hybrid",
    architecture="OlmoHybridForCausalLM",
    trunk="model.",
    layer="layers.{}.{}",
    used=USED,
    fixed={"linear_use_gate": (True,)},
    free=words(
        """attention_dropout max_position_embeddings linear_a_log_min linear_a_log_max
        linear_dt_min linear_dt_max linear_dt_init_floor"""
    ),
    settings=_settings,
    fields=_fields,
    block=_block,
    rest=_rest,
    # transformers gives layers of both kinds the names of the other, in and out.
    aliases=(
        ("feedforward_layer_norm", "post_attention_layernorm"),
        ("post_attention_layernorm", "feedforward_layer_norm"),
        ("input_layernorm", "attention_layer_norm"),
    ),
    buffers=(".rotary_emb.inv_freq",),
)
