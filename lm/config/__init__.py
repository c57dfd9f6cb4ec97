"""Configs: load, override, resolve, freeze, fingerprint and compare.

configs/base.py has every key but those of the mixers, which are their dataclass fields.
A key is written with dots: model.depth, model.mixers.attention.heads.
"""

import hashlib
import importlib.util
import inspect
import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from lm.config import durations as lengths
from lm.config import schema, validate
from lm.config.durations import Durations
from lm.config.schema import ENTRY, Key
from lm.errors import ConfigError, choose, nearest

BASE = Path(__file__).parent.parent.parent / "configs" / "base.py"
ABSENT = "(absent)"


def load(spec: str, overrides: Mapping[str, Any] | list[str] = ()) -> ConfigDict:
    """The config of `configs/x.py` or `configs/x.py:argument`, with overrides.

    Overrides are a mapping of keys, or a list of "key=value"; their order is of no
    matter, but the last of two for one key wins. Every problem is a ConfigError.
    """
    if not isinstance(overrides, Mapping):
        for text in overrides:
            if "=" not in text:
                raise ConfigError(f"override {text!r} is not of the form key=value")
        overrides = dict(text.split("=", 1) for text in overrides)
    return override(_read(spec), overrides)


def override(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """`config` with `changes`, keyed by dots or nested; texts are parsed by type.

    Override what `load` gave rather than what `resolve` gave, which has lost the mixers
    that its pattern does not use.
    """
    values, changes = flatten(config), flatten(changes)
    for key in [k for k in changes if k.startswith(ENTRY) and k.endswith(".kind")]:
        if values.get(key, changes[key]) != changes[key]:
            entry = key.removesuffix("kind")
            values = {k: v for k, v in values.items() if not k.startswith(entry)}
    kind = f"{schema.TASK}kind"
    if values.get(kind, changes.get(kind)) != changes.get(kind, values.get(kind)):
        values = {k: v for k, v in values.items() if not k.startswith(schema.TASK)}
    keys = schema.keys(_read(str(BASE)), values | changes)
    for key in (*values, *changes):
        if key not in keys:
            raise schema.unknown(key, keys, (values | changes)["model.pattern"])
    for key, (_, _, _, default) in keys.items():
        if key.startswith(schema.TESTS):
            continue  # what a test does not change it has from the task
        if key.startswith((ENTRY, schema.PART, schema.TASK)):
            values.setdefault(key, default)
        elif key not in values:
            raise ConfigError(f"the config lacks {key}: derive it from configs/base.py")
    values |= changes
    return _nest(
        {key: schema.convert(key, values[key], keys[key]) for key in values}, keys
    )


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """The checked, frozen config, without the mixers that its pattern does not use.

    Every value that cannot be run is a ConfigError. Idempotent.
    """
    values = flatten(override(config, {}))
    entries = schema.entries(values)
    for name in values["model.pattern"]:
        choose("model.pattern", name, sorted(entries))
    validate.check(values)
    for name in values["model.pattern"]:
        prefix = f"{ENTRY}{name}."
        fields = {
            k[len(prefix) :]: v for k, v in values.items() if k.startswith(prefix)
        }
        validate.check_mixer(name, fields, values)
    used = set(values["model.pattern"])
    kept = {
        key: value
        for key, value in values.items()
        if not key.startswith(ENTRY) or key.split(".")[2] in used
    }
    return FrozenConfigDict(_nest(kept, {}))


def durations(config: ConfigDict, steps_per_epoch: int) -> Durations:
    """Steps of training, warm-up and intervals, once the corpus and batch are known."""
    return lengths.durations(flatten(config), steps_per_epoch)


def flatten(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """{dotted key: value} of every leaf; also of mappings whose keys have dots."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat


# Keys that change nothing, or, as the devices do, no more than the last bits.
FREE = re.compile(
    r"run\..*|mesh\..*|train\.micro_tokens|name|data\.(cache|(mixture\..*\.)?tfds_dir)"
)


def changes_result(key: str) -> bool:
    """Whether a key makes another run of it; a run may go on under other FREE keys."""
    return not FREE.fullmatch(key)


def fingerprint(config: ConfigDict) -> str:
    """12 hex digits over all keys that change the result."""
    values = {k: v for k, v in flatten(config).items() if changes_result(k)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def diff(a: ConfigDict, b: ConfigDict) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) of differing keys; ABSENT where one lacks it."""
    a, b = flatten(a), flatten(b)
    rows = [(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in sorted({*a, *b})]
    return [row for row in rows if row[1] != row[2]]


def to_json(config: ConfigDict) -> str:
    """Readable JSON of a config; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str) -> FrozenConfigDict:
    """The frozen config of a run's config.json, unchecked; lists become tuples."""

    def tuples(section: dict) -> dict:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}

    return FrozenConfigDict(json.loads(text, object_hook=tuples))


def _read(spec: str) -> ConfigDict:
    """What get_config of a file returns; an error in the file is a ConfigError."""
    path, colon, argument = spec.partition(".py:")
    path = Path(path + ".py" if colon else path)
    if not path.is_file() or path.suffix != ".py":
        near = nearest(str(path), sorted(map(str, path.parent.glob("*.py"))))
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"config {str(path)!r} is no Python file{hint}")
    try:
        config = _call(path, (argument,) if colon else ())
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(path.absolute())]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        message = f"config {where}: {type(error).__name__}: {error}"
        raise ConfigError(" ".join(message.split())) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"config {str(path)!r}: get_config must return a ConfigDict")
    return config


def _call(path: Path, arguments: tuple[str, ...]) -> Any:
    """get_config(*arguments) of a file; a ConfigError if it takes other arguments."""
    module_spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"config {str(path)!r} has no function get_config")
    signature = inspect.signature(module.get_config)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        form = ":".join((str(path), *map(str.upper, signature.parameters)))
        raise ConfigError(f"config {str(path)!r}: {error}; write {form}") from error
    return module.get_config(*arguments)


def _nest(values: Mapping[str, Any], keys: Mapping[str, Key]) -> ConfigDict:
    """The ConfigDict of dotted keys; keys that may be None keep their type."""
    nested = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        section = nested
        for name in sections:
            section = section.setdefault(name, {})
        if key in keys and keys[key].optional:
            reference = placeholder(keys[key].kind)
            reference.set(value)
            value = reference
        section[leaf] = value
    return ConfigDict(nested)
