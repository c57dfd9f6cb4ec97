"""Fields that families share, and what they are here."""

from collections.abc import Mapping, Sequence
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


def inverse(choices: Mapping[str, Any], value: Any) -> str | None:
    """The first name of `value`."""
    return next((name for name, ours in choices.items() if ours == value), None)


def attention(**fields) -> dict[str, Any]:
    """Keys of a model all of whose layers are attention."""
    keys = {f"{ATTENTION}{name}": value for name, value in fields.items()}
    return {"model.pattern": ("attention",)} | keys


def repeated(pattern: Sequence[str], depth: int) -> list[str]:
    """The kind of each of `depth` layers."""
    return [pattern[i % len(pattern)] for i in range(depth)]


def shortest(pattern: Sequence[str], depth: int) -> tuple[str, ...]:
    """The shortest pattern whose repeats are the same `depth` layers."""
    kinds = repeated(pattern, depth)
    tries = (kinds[:n] for n in range(1, depth))
    return tuple(next((few for few in tries if repeated(few, depth) == kinds), kinds))


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


# rope_type -> fields of what ops.attention.frequencies is given, in its order.
SCALED = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def rotary(c: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling of attention, of the fields of rotary positions."""
    fields = rope(c)
    kind = fields.pop("rope_type")
    names = choice("rope_type", kind, SCALED)
    fields.pop("partial_rotary_factor", None)
    base = fields.pop("rope_theta")
    given = {"rope_theta": 10_000.0 if base is None else base}
    given |= {name: fields.pop(name, None) for name in names}
    if fields:
        raise ConfigError(
            f"rope_parameters: {', '.join(fields)} has no place in rope_type={kind!r}"
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{name}={value!r} is no number")
    theta, *scaling = map(float, given.values())
    return {"rope_theta": theta, "rope_scaling": tuple(scaling)}


def rope_fields(m: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `rotary`, of our keys."""
    scaling = m.get(f"{ATTENTION}rope_scaling") or ()
    names = {len(names): names for names in SCALED.values()}[len(scaling)]
    kind = inverse(SCALED, names)
    theta = {"rope_type": kind, "rope_theta": m.get(f"{ATTENTION}rope_theta")}
    return theta | dict(zip(names, scaling, strict=True))
