"""What a corpus is before it is tokenised: named, hashed, read a document at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 1 << 20  # bytes of a long document that are held at once


class Document(NamedTuple):
    """Raw bytes of one document, and the file and byte offset they start at.

    A long document comes in blocks: after one with `more`, the next goes on with it.
    """

    text: bytes
    file: str
    offset: int
    more: bool = False


class Source(NamedTuple):
    """A corpus before tokenisation.

    Attributes:
      name: what a person calls it.
      version: of the package, or {file: bytes}.
      sha256: of the raw bytes, parts end to end.
      parts: bytes of each part (book, file); with sha256 they name the content.
      rule: how parts are cut into documents.
      documents: each call reads the documents once more, one at a time.
      facts: what else a run's manifest says of it; changes no token.
    """

    name: str
    version: str | dict[str, int]
    sha256: str
    parts: tuple[int, ...]
    rule: str
    documents: Callable[[], Iterator[Document]]
    facts: dict = {}
