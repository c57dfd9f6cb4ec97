"""What a check yields."""

from typing import NamedTuple


class Finding(NamedTuple):
    """level: "wrong", or "note" for what may be meant so; problem and fix: text."""

    level: str
    problem: str
    fix: str
