"""A token file that grows by shards and is found again after a kill."""

import io
import json
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.data.shards import Encoded, Shard, token_dtype

PROGRESS = "progress.jsonl"
UNCUT = 1 << 62  # tokens; no document is longer


class Row(NamedTuple):
    """What there is up to the end of a shard.

    Attributes:
      shard: its digest.
      sums: CRC-32 of what it added to each file.
      tokens, documents: how many.
      start: the first token of the last document, which the next shard may go on with.
      longest, split: tokens of the longest document before it was cut, documents cut.
    """

    shard: str
    sums: list[int]
    tokens: int
    documents: int
    start: int
    longest: int
    split: int


class Growing:
    """tokens.bin, documents.npy and, where the tokenizer gives sizes, sizes.bin.

    A row of PROGRESS follows each shard; only what rows with the right checksums tell
    of is taken up again, and the rest is cut off.
    """

    def __init__(self, folder: Path, tokenizer, max_document: int | None):
        self._most = max_document or UNCUT
        # Of each file: bytes before its first entry, bytes of an entry.
        layout = {
            "tokens.bin": (0, token_dtype(tokenizer).itemsize),
            "documents.npy": (len(_header(0)), 8),
        }
        if tokenizer.bytes_per_token is None:
            layout["sizes.bin"] = (0, 4)
        self._layout = list(layout.values())
        self._open = ExitStack()
        paths = [folder / name for name in (*layout, PROGRESS)]
        for path in paths:
            path.touch()
        files = [self._open.enter_context(path.open("r+b")) for path in paths]
        *self._files, self._progress = files
        self.last = Row("", [], 0, 0, 0, 0, 0)
        self._told = 0  # bytes of PROGRESS up to the row `last`
        self._earlier = deque(self._whole())

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def has(self, shard: Shard) -> bool:
        """True if an earlier process left the next shard; asked of each in order.

        After the first one that it did not, all must be appended.
        """
        if self._earlier and self._earlier[0][0].shard == shard.digest:
            self.last, self._told = self._earlier.popleft()
            return True
        self._earlier.clear()
        return False

    def append(self, shard: Shard, encoded: Encoded) -> None:
        """Adds the tokens of the next shard, whose text is not read."""
        self._cut()
        last = self.last
        stop_P = last.tokens + np.cumsum(encoded.counts_P)
        begin_P = stop_P - encoded.counts_P
        opened_P = np.where(shard.opens_P, begin_P, last.start)
        start_P = np.maximum.accumulate(opened_P)  # of the document of each piece
        # A document starts every `most` tokens: those whose count falls in a piece.
        first_P = -(-(begin_P - start_P) // self._most)
        added_P = -(-(stop_P - start_P) // self._most) - first_P
        before_P = np.cumsum(added_P) - added_P
        nth_D = np.arange(added_P.sum()) + np.repeat(first_P - before_P, added_P)
        documents_D = np.repeat(start_P, added_P) + nth_D * self._most
        longer_P = (begin_P - start_P <= self._most) & (stop_P - start_P > self._most)

        parts = [encoded.tokens, documents_D, encoded.sizes][: len(self._files)]
        for file, part in zip(self._files, parts, strict=True):
            file.write(part)
            file.flush()
        self.last = Row(
            shard=shard.digest,
            sums=[zlib.crc32(part) for part in parts],
            tokens=int(stop_P[-1]),
            documents=last.documents + len(documents_D),
            start=int(start_P[-1]),
            longest=max(last.longest, int((stop_P - start_P).max())),
            split=last.split + int(longer_P.sum()),
        )
        line = json.dumps(self.last._asdict()) + "\n"
        self._told += self._progress.write(line.encode())
        self._progress.flush()

    def finish(self) -> Row:
        """Makes documents.npy whole, and returns the last row."""
        self._cut()
        self._files[1].seek(0)
        self._files[1].write(_header(self.last.documents))
        self._files[1].flush()
        return self.last

    def _whole(self) -> Iterator[tuple[Row, int]]:
        """Rows whose files have what they tell of, and where each ends in PROGRESS."""
        last, told = self.last, 0
        for file, size in zip(self._files, self._sizes(last), strict=True):
            file.seek(size)
        for line in self._progress:
            told += len(line)
            if not line.endswith(b"\n"):
                return
            row = Row(**json.loads(line))
            sizes = zip(self._sizes(last), self._sizes(row), strict=True)
            added = [stop - start for start, stop in sizes]
            parts = zip(self._files, added, strict=True)
            if [zlib.crc32(file.read(size)) for file, size in parts] != row.sums:
                return
            yield row, told
            last = row

    def _sizes(self, row: Row) -> list[int]:
        """Bytes of each file up to the end of a row."""
        entries = (row.tokens, row.documents, row.tokens)[: len(self._layout)]
        layout = zip(self._layout, entries, strict=True)
        return [header + n * width for (header, width), n in layout]

    def _cut(self) -> None:
        """Cuts all files behind the row `last`, and goes there."""
        sizes = (*self._sizes(self.last), self._told)
        for file, size in zip((*self._files, self._progress), sizes, strict=True):
            file.truncate(size)
            file.seek(size)


def _header(documents: int) -> bytes:
    """Of a .npy file of int64 [documents]; numpy leaves room for any number."""
    file = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(np.empty(0, np.int64))
    np.lib.format.write_array_header_1_0(file, fields | {"shape": (documents,)})
    return file.getvalue()
