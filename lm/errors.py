"""The error for input that cannot be run, and suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config or flag that cannot be run; the message names the key, value and fix."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The likeliest of `names` (dotted keys or plain words) for a misspelt `name`."""

    def likeness(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    def score(other: str) -> float:
        leaves = likeness(name.rpartition(".")[2], other.rpartition(".")[2])
        return max(likeness(name, other), leaves - 0.05)

    best = max(names, key=score, default=None)
    return best if best is not None and score(best) > 0.5 else None


def choose(key: str, value: str, names: Iterable[str]) -> None:
    """Raise unless `value` is one of `names`; suggest the nearest and list them all."""
    names = tuple(names)
    if value in names:
        return
    near = nearest(str(value), names)
    hint = f"did you mean {near!r}? " if near else ""
    raise ConfigError(f"{key}={value!r}: {hint}valid are {', '.join(names)}")
