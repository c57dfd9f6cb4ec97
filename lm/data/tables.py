"""Local JSONL and Parquet files: a document is a row's text, `data.column`, or a pair.

Rows stream: a line, or a page of a Parquet column, is in memory.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from lm.data import files, pairs
from lm.data.source import Document, Source
from lm.errors import ConfigError

ROWS = 64  # of a Parquet file, decoded at once


def jsonl(data) -> Source:
    """A JSON object a line in files that may be gzipped (.gz); blank lines are none."""
    return _table(data, "jsonl", _json_texts, _json_rows)


def parquet(data) -> Source:
    """Parquet files; the column holds strings or bytes, dictionaries of them too."""
    return _table(data, "parquet", _parquet_texts, _parquet_rows)


def _table(data, corpus: str, texts: Callable, rows: Callable) -> Source:
    """The source of a kind of table.

    texts: (path, column) -> bytes, or None; rows: path -> (where it is, dict).
    """
    found = files.matches(corpus, data.path)
    sha256, parts = files.digest(found)
    rule = pairs.rule(data)

    def documents() -> Iterator[Document]:
        for path in found:
            if rule:
                for where, row in rows(path):
                    for text in pairs.of_row(data, row, where):
                        yield Document(text, where, 0)
            else:
                for number, text in enumerate(texts(path, data.column), 1):
                    yield Document(text or b"", f"{path}, row {number}", 0)

    return Source(
        name=data.path,
        version=dict(zip(found, parts, strict=True)),
        sha256=sha256,
        parts=parts,
        rule=f"{rule or data.column} of {corpus}",
        documents=documents,
        facts={"pairs": rule} if rule else {"column": data.column},
    )


def _json_texts(path: str, column: str) -> Iterator[bytes | None]:
    """Texts of a file's objects, None for null; ConfigError for anything else."""
    for where, row in _json_rows(path, f'{{"{column}": "text"}}'):
        if column not in row:
            raise _no_column(where, column, row)
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise ConfigError(
                f"data.column={column!r} of {where.removeprefix('data.path: ')} is a "
                f"{type(text).__name__}, no string; name another of {', '.join(row)}"
            )
        yield text if text is None else _bytes(text)


def _json_rows(path: str, example: str = "an object") -> Iterator[tuple[str, dict]]:
    """(where it is, object) of every line that is not blank."""
    with files.opened(path) as file:
        lines = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
        for number, line in enumerate(_lines(lines, path), 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            where = f"data.path: line {number} of {path!r}"
            try:
                row = json.loads(line.decode(errors="surrogateescape"))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ConfigError(f"{where} is no JSON ({error}); mend it") from error
            if not isinstance(row, dict):
                raise ConfigError(
                    f"{where} is a {type(row).__name__}, no object; write {example}"
                )
            yield where, row


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    """Lines of a file; ConfigError if it is no whole gzip file."""
    try:
        yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(
            f"data.path: {path!r} is no whole gzip file ({error}); mend it, or name "
            "it without .gz"
        ) from error


def _bytes(text: str) -> bytes:
    """UTF-8; a byte that was none is itself again, half a surrogate pair is invalid."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        byte = lambda c: "\udc80" <= c <= "\udcff"  # as surrogateescape made it
        return b"".join(
            c.encode(errors="surrogateescape" if byte(c) else "surrogatepass")
            for c in text
        )


def _parquet_texts(path: str, column: str) -> Iterator[bytes | None]:
    """Cells of a column, None for null; ConfigError if it is none of texts."""
    import pyarrow as pa

    with _parquet(path) as table:
        schema = table.schema_arrow
        if column not in schema.names:
            raise _no_column(f"data.path: {path!r}", column, schema.names)
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.string(), pa.large_string(), pa.string_view())
        if kind not in (*texts, pa.binary(), pa.large_binary(), pa.binary_view()):
            raise ConfigError(
                f"data.column={column!r} of {path!r} holds {kind}, no strings; name "
                f"another of {', '.join(schema.names)}"
            )
        for batch in table.iter_batches(ROWS, columns=[column], use_threads=False):
            cells = batch.column(0)
            if pa.types.is_dictionary(cells.type):
                cells = cells.dictionary_decode()
            # As bytes: what is not UTF-8 is for data.invalid_utf8 to say.
            yield from cells.cast(pa.large_binary()).to_pylist()


def _parquet_rows(path: str) -> Iterator[tuple[str, dict]]:
    """(where it is, {column: value}) of every row."""
    with _parquet(path) as table:
        number = 0
        for batch in table.iter_batches(ROWS, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield f"data.path: row {number} of {path!r}", row


@contextmanager
def _parquet(path: str):
    """An open Parquet file; ConfigError if it is none."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    with files.opened(path) as file:
        try:
            yield pq.ParquetFile(file, buffer_size=1 << 16)
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"data.path: {path!r} is no whole Parquet file ({error}); mend it or "
                "narrow the glob"
            ) from error


def _no_column(where: str, column: str, names) -> ConfigError:
    return ConfigError(
        f"{where} has no data.column={column!r}; it has {', '.join(names) or 'none'}"
    )
