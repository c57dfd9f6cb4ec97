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
    for good, ours in choices.items():
        if value == good:
            return ours
    valid = ", ".join(map(repr, choices))
    raise ConfigError(f"{name}={value!r}: only {valid}")


def rope(c: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of rotary positions, old ones (rope_theta, rope_scaling) or new."""
    found = {}
    for name in ("rope_parameters", "rope_scaling"):
        value = c.get(name) or {}
        if not isinstance(value, dict):
            raise ConfigError(f"{name}={value!r} is no object")
        found |= value
    found.setdefault("rope_type", found.pop("type", "default"))
    if found.get("rope_theta") is None:
        found["rope_theta"] = c.get("rope_theta")
    return found


def theta(c: Mapping[str, Any]) -> float:
    """The base of rotary positions that nothing scales."""
    fields = rope(c)
    choice("rope_type", fields.pop("rope_type"), {"default": True})
    base = fields.pop("rope_theta")
    fields.pop("partial_rotary_factor", None)
    if fields:
        raise ConfigError(f"rope_parameters: {', '.join(fields)} has no place here")
    if base is None:
        return 10_000.0
    if isinstance(base, bool) or not isinstance(base, (int, float)):
        raise ConfigError(f"rope_theta={base!r} is no number")
    return float(base)
