"""Pairs: a source, and the target that is to be written after it, as one document."""

import re
from collections.abc import Iterator
from typing import Any

from lm.errors import ConfigError

SETS = ("jsonl", "parquet", "tfds")  # corpora whose rows may be pairs
BETWEEN, END = "\t", "\n"
FIELD = re.compile(r"\{([^{}]*)\}")


def pair(source: str, target: str) -> bytes:
    """`source TAB target LF`; white space within them becomes single spaces."""
    flat = lambda text: " ".join(text.split())
    return f"{flat(source)}{BETWEEN}{flat(target)}{END}".encode()


def rule(data) -> str:
    """How pairs are made of a row of a set; empty where a row's text is its column."""
    if data.source is not None:
        return f"{data.source} -> {data.target}"
    return f"turns of {data.dialogue}" if data.dialogue else ""


def of_row(data, row: dict, where: str) -> Iterator[bytes]:
    """The pairs of a row: that of data.source and data.target, or of data.dialogue,
    a list of {"role", "content"}, one for each "assistant" turn, after all before it.

    ConfigError, beginning with `where`, for a row that has no such fields.
    """
    if data.dialogue is None:
        yield pair(filled(data.source, row, where), filled(data.target, row, where))
        return
    turns = row.get(data.dialogue)
    if not isinstance(turns, list | tuple):
        raise ConfigError(
            f"{where} has no list data.dialogue={data.dialogue!r}; it has "
            f"{', '.join(row)}"
        )
    before: list[str] = []
    for number, turn in enumerate(turns):
        place = f"{where}, {data.dialogue}.{number}"
        role, said = (
            filled(f"{{{name}}}", turn, place) for name in ("role", "content")
        )
        if role == "assistant":
            yield pair(" ".join([*before, "assistant:"]), said)
        before.append(f"{role}: {said}")


def filled(template: str, row: Any, where: str) -> str:
    """A template with its fields, {question} or {answers.text.0}, from a row of a set.

    ConfigError, beginning with `where`, for a field that the row lacks or that holds
    neither text nor number.
    """

    def value(match: re.Match) -> str:
        found = row
        for name in match[1].split("."):
            try:
                found = found[int(name) if name.isdigit() else name]
            except (KeyError, IndexError, TypeError) as error:
                known = ", ".join(found) if isinstance(found, dict) else "no names"
                raise ConfigError(
                    f"{where} has no {match[0]}: at {name!r} there are {known}"
                ) from error
        found = getattr(found, "item", lambda: found)()  # of a numpy number
        if isinstance(found, bytes):
            return found.decode(errors="replace")
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise ConfigError(
                f"{where}: {match[0]} is a {type(found).__name__}, no text or number"
            )
        return str(found)

    return FIELD.sub(value, template)
