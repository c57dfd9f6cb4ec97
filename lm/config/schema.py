"""Which keys a config has, and what each may hold."""

import ast
import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lm.errors import ConfigError, choose, nearest

ENTRY = "model.mixers."
PART = "data.mixture."
TASK = "data.task."
TESTS = f"{TASK}tests."
# What a part of data.mixture has of its own, beside its weight; as in data.
PART_KEYS = ("corpus", "path", "document", "column", "source", "target", "dialogue")
PART_KEYS += ("tfds_split", "tfds_dir")
# Fields of a mixer that are not its keys.
NO_KEYS = ("width", "layers", "dtype", "parent", "name")
_NUMBERS = {int: numbers.Integral, float: numbers.Real}


class Key(typing.NamedTuple):
    """What a key may hold: `kind`, with `item` inside a tuple; None where optional."""

    kind: type
    item: type | None
    optional: bool
    default: Any


def entries(values: Mapping[str, Any]) -> dict[str, str]:
    """{name: kind} of the entries of model.mixers: all registered, and one's own."""
    from lm.mixers import MIXERS

    entries = {name: name for name in MIXERS}
    for key, kind in values.items():
        _, _, name_field = key.partition(ENTRY)
        name, _, field = name_field.partition(".")
        if field == "kind":
            choose(key, kind, sorted(MIXERS))
            if name in MIXERS and kind != name:
                raise ConfigError(
                    f"{key}={kind!r}: {name} is a mixer; rename the entry"
                )
            entries[name] = kind
    return entries


def keys(base: ConfigDict, values: Mapping[str, Any]) -> dict[str, Key]:
    """Every key of `base`, and of the mixers, parts and task that `values` has."""
    from lm.data.corpora import CORPORA
    from lm.data.tasks import TASKS
    from lm.mixers import MIXERS

    found = {}

    def walk(section: ConfigDict, prefix: str) -> None:
        for name, value in section.items():
            if isinstance(value, ConfigDict):
                walk(value, f"{prefix}{name}.")
            else:
                item = None
                if isinstance(value, tuple):  # an empty one is of names
                    item = type(value[0]) if value else str
                kind = section.get_type(name)
                found[prefix + name] = Key(kind, item, value is None, value)

    walk(base, "")
    for name in sorted({k.split(".")[2] for k in values if k.startswith(PART)}):
        found[f"{PART}{name}.weight"] = Key(float, None, False, 1.0)
        found |= {f"{PART}{name}.{key}": found[f"data.{key}"] for key in PART_KEYS}
        if name in CORPORA:
            found[f"{PART}{name}.corpus"] = found["data.corpus"]._replace(default=name)
    for name, kind in entries(values).items():
        found[f"{ENTRY}{name}.kind"] = Key(str, None, False, kind)
        found |= _fields(MIXERS[kind], f"{ENTRY}{name}.", NO_KEYS)
    if kind := values.get(f"{TASK}kind"):
        choose(f"{TASK}kind", kind, TASKS)
        found[f"{TASK}kind"] = Key(str, None, False, kind)
        found |= _fields(TASKS[kind], TASK)
        for key in values:
            if key.startswith(TESTS) and len(key.split(".")) != 5:
                raise ConfigError(
                    f"{key}: write {TESTS}NAME.FIELD, with a NAME that has no dot"
                )
        for name in sorted({k.split(".")[3] for k in values if k.startswith(TESTS)}):
            prefix = f"{TESTS}{name}."
            found |= _fields(TASKS[kind], prefix, TASKS[kind].training_only)
    return found


def _fields(kind: type, prefix: str, left_out: tuple[str, ...] = ()) -> dict[str, Key]:
    """A key for each field of a dataclass."""
    found, hints = {}, typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in left_out:
            continue
        hint, optional, item = hints[field.name], False, None
        if isinstance(hint, types.UnionType):
            hint, optional = typing.get_args(hint)[0], True
        if typing.get_origin(hint) is tuple:
            hint, item = tuple, typing.get_args(hint)[0]
        found[prefix + field.name] = Key(hint, item, optional, field.default)
    return found


def unknown(key: str, keys: Mapping[str, Key], pattern) -> ConfigError:
    """The error for a key that is not one of `keys`, with the nearest of them.

    Outside model.mixers that is not a key of a mixer that the pattern does not use.
    """
    inside = [other for other in keys if other.startswith(f"{key}.")]
    if inside:
        return ConfigError(f"{key} is a section; set a key in it, such as {inside[0]}")
    used = lambda other: not other.startswith(ENTRY) or other.split(".")[2] in pattern
    near = nearest(key, keys if key.startswith(ENTRY) else filter(used, keys))
    hint = f"; did you mean {near}?" if near else ""
    if key.startswith(ENTRY) and f"{ENTRY}{key.split('.')[2]}.kind" not in keys:
        hint += " (a new entry of model.mixers needs its kind)"
    if key.startswith(TASK) and f"{TASK}kind" not in keys:
        hint = f" (the keys of a task follow from {TASK}kind: give it too)"
    return ConfigError(f"unknown key {key}{hint}")


def convert(key: str, value: Any, want: Key) -> Any:
    """`value` in the type of its key; texts of other types are parsed."""
    if value is None or value == "None":
        if want.optional:
            return None
    elif want.kind is tuple:
        if isinstance(value, str) and value[:1] in ("(", "["):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise _wrong(key, value, want) from None
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(","))
        if isinstance(value, list | tuple):
            part = Key(want.item, None, False, want.default and want.default[0])
            return tuple(convert(key, item, part) for item in value)
    elif want.kind is bool and isinstance(value, str):
        if value.lower() in ("true", "1", "false", "0"):
            return value.lower() in ("true", "1")
    elif want.kind in (int, float) and isinstance(value, str):
        try:
            return want.kind(value)
        except ValueError:
            raise _wrong(key, value, want) from None
    elif want.kind in _NUMBERS and isinstance(value, _NUMBERS[want.kind]):
        if not isinstance(value, bool):
            return want.kind(value)
    elif type(value) is want.kind:
        return value
    raise _wrong(key, value, want)


def _wrong(key: str, value: Any, want: Key) -> ConfigError:
    """The error for a value of another type than its key's."""
    examples = {int: 64, float: 0.1, str: "text", bool: True, tuple: ()}
    example = examples[want.kind] if want.default is None else want.default
    kind = want.kind.__name__
    if want.kind is tuple:
        kind = f"tuple of {want.item.__name__}"
    if want.optional:
        kind += " or None"
    return ConfigError(f"{key}={value!r}: expected {kind}, for example {example!r}")
