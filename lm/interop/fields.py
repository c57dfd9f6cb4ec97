"""Fields that families share, and what they are here."""

from collections.abc import Mapping
from typing import Any

from lm.errors import ConfigError

ATTENTION = "model.mixers.attention."
# transformers' names of functions -> model.mlp; the first of two is written.
GELU = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu"}


def inverse(choices: dict[str, str], value: str) -> str | None:
    """The first name of `value`."""
    return next((name for name, ours in choices.items() if ours == value), None)


def attention(**fields) -> dict[str, Any]:
    """Keys of a model all of whose layers are attention."""
    keys = {f"{ATTENTION}{name}": value for name, value in fields.items()}
    return {"model.pattern": ("attention",)} | keys


def choice(name: str, value, choices: Mapping[Any, Any]):
    """choices[value], or a ConfigError that names the field and what it may be."""
    if value in choices:
        return choices[value]
    valid = ", ".join(map(repr, choices))
    raise ConfigError(f"{name}={value!r}: only {valid}")


def theta(c: dict) -> float:
    """The base of rotary positions that nothing scales, old fields or new."""
    rope = dict(c["rope_parameters"] or {})
    rope |= c.get("rope_scaling") or {}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    choice("rope_parameters.rope_type", kind, {"default": True})
    base = rope.pop("rope_theta", c.get("rope_theta"))
    rope.pop("partial_rotary_factor", None)
    choice("rope_parameters", tuple(rope), {(): True})
    return float(10_000.0 if base is None else base)
