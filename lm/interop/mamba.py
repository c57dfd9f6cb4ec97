"""Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060)."""

import math

from lm.errors import ConfigError
from lm.interop.family import Family, words
from lm.interop.layout import Table, dense, norm, same, taps

_TRAINING = """residual_in_fp32 time_step_min time_step_max time_step_floor
    rescale_prenorm_residual use_mambapy use_associative_scan time_step_scale
    time_step_init_scheme chunk_size d_inner d_model n_layer fused_add_norm rms_norm
    ssm_cfg pad_vocab_size_multiple"""


def _shared_settings(c: dict, kind: str, **fields) -> dict:
    keys = {f"model.mixers.{kind}.{name}": value for name, value in fields.items()}
    return keys | {
        "model.pattern": (kind,),
        "model.width": c["hidden_size"],
        "model.depth": c["num_hidden_layers"],
        "model.mlp": "none",
        "model.norm_eps": c["layer_norm_epsilon"],
        "model.tied": c["tie_word_embeddings"],
    }


def _shared_fields(m: dict, kind: str) -> dict:
    return {
        "hidden_size": m["model.width"],
        "num_hidden_layers": m["model.depth"],
        "layer_norm_epsilon": m["model.norm_eps"],
        "tie_word_embeddings": m["model.tied"],
        "expand": m.get(f"model.mixers.{kind}.expand"),
        "state_size": m.get(f"model.mixers.{kind}.state_width"),
        "conv_kernel": m.get(f"model.mixers.{kind}.conv_width"),
    }


def _rank(c: dict) -> int:
    rank = c["time_step_rank"]
    if rank in (None, "auto"):
        return math.ceil(c["hidden_size"] / 16)
    if not isinstance(rank, int):
        raise ConfigError(f"time_step_rank={rank!r} is neither 'auto' nor a number")
    return rank


def _mamba_settings(c: dict) -> dict:
    return _shared_settings(
        c,
        "mamba",
        expand=c["expand"],
        state_width=c["state_size"],
        conv_width=c["conv_kernel"],
        dt_rank=_rank(c),
    )


def _mamba_fields(m: dict) -> dict:
    rank = m.get("model.mixers.mamba.dt_rank") or math.ceil(m["model.width"] / 16)
    expand = m.get("model.mixers.mamba.expand") or 2
    inner = {"intermediate_size": expand * m["model.width"]}
    return _shared_fields(m, "mamba") | {"time_step_rank": rank} | inner


def _shared_block() -> Table:
    return (
        norm("mixer_norm", "norm")
        | dense("mixer/input", "mixer.in_proj")
        | {
            "mixer/conv_kernel": taps("mixer.conv1d.weight"),
            "mixer/conv_bias": same("mixer.conv1d.bias"),
            "mixer/A_log": same("mixer.A_log"),
            "mixer/D": same("mixer.D"),
        }
        | dense("mixer/output", "mixer.out_proj")
    )


def _mamba_block(c: dict) -> Table:
    return (
        _shared_block()
        | dense("mixer/selection", "mixer.x_proj")
        | dense("mixer/dt", "mixer.dt_proj")
        | {"mixer/dt_bias": same("mixer.dt_proj.bias")}
    )


def _mamba2_settings(c: dict) -> dict:
    return _shared_settings(
        c,
        "mamba2",
        expand=c["expand"],
        state_width=c["state_size"],
        conv_width=c["conv_kernel"],
        head_width=c["head_dim"],
        groups=c["n_groups"],
    )


def _mamba2_fields(m: dict) -> dict:
    expand = m.get("model.mixers.mamba2.expand") or 2
    inner = expand * m["model.width"]
    head = m.get("model.mixers.mamba2.head_width") or math.gcd(64, inner)
    heads = {"num_heads": inner // head, "head_dim": head}
    groups = {"n_groups": m.get("model.mixers.mamba2.groups")}
    return _shared_fields(m, "mamba2") | heads | groups


def _mamba2_block(c: dict) -> Table:
    return _shared_block() | {
        "mixer/dt_bias": same("mixer.dt_bias"),
        "mixer/norm_scale": same("mixer.norm.weight"),
    }


def _rest(c: dict) -> Table:
    return {"embedding": same("embeddings.weight"), **norm("norm", "norm_f")}


_USED = {
    "hidden_size": 768,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
}
_FIXED = {"use_bias": (False,), "use_conv_bias": (True,), "hidden_act": ("silu",)}

MAMBA = Family(
    model_type="mamba",
    architecture="MambaForCausalLM",
    trunk="backbone.",
    layer="layers.{}.{}",
    used=_USED
    | {
        "vocab_size": 50280,
        "state_size": 16,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
        "intermediate_size": None,
    },
    fixed=_FIXED,
    free=words(_TRAINING),
    settings=_mamba_settings,
    fields=_mamba_fields,
    block=_mamba_block,
    rest=_rest,
)
MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    trunk="backbone.",
    layer="layers.{}.{}",
    used=_USED
    | {
        "vocab_size": 32768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "tie_word_embeddings": False,
    },
    # The norm inside the mixer has this epsilon here.
    fixed=_FIXED
    | {"layer_norm_epsilon": (1e-5,), "time_step_limit": ([0.0, math.inf],)},
    free=words(f"{_TRAINING} time_step_rank norm_before_gate"),
    settings=_mamba2_settings,
    fields=_mamba2_fields,
    block=_mamba2_block,
    rest=_rest,
)
