"""Shards: the text of a corpus in parts of a few megabytes, each encoded alone.

Documents come in blocks, blocks are cleaned, and a long document is cut into pieces
where its tokenizer allows it, so that no more than a shard of text is in memory. Where
shards begin is decided by the text alone; what they hold, put end to end, is the same
wherever they begin.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from lm.data.source import BLOCK, Document

SHARD = 8 << 20  # bytes of text


class Shard(NamedTuple):
    """Pieces of documents, end to end.

    Attributes:
      text: bytes of P pieces.
      lengths_P: int64, bytes of each.
      opens_P: bool, True where a document starts with the piece.
      read: bytes of the source up to the end of the last piece.
      digest: hex, over all that changes a token or a document of the shard.
    """

    text: bytes
    lengths_P: np.ndarray
    opens_P: np.ndarray
    read: int
    digest: str


class Encoded(NamedTuple):
    """Tokens [N] of a shard; counts_P: int64, how many are of each piece; sizes [N] as
    a tokenizer gives them, int32 or None."""

    tokens: np.ndarray
    counts_P: np.ndarray
    sizes: np.ndarray | None


def token_dtype(tokenizer) -> np.dtype:
    """The smallest unsigned type that holds the vocabulary."""
    return np.min_scalar_type(tokenizer.vocab_size - 1)


def encode(shard: Shard, tokenizer) -> Encoded:
    """The tokens of a shard, which needs no other one."""
    dtype, varies = token_dtype(tokenizer), tokenizer.bytes_per_token is None
    counts, tokens, sizes, start = [], [], [], 0
    parts, waiting = [], 0  # arrays of short pieces are larger than what they hold
    for length in shard.lengths_P.tolist():
        part = tokenizer.encode(shard.text[start : start + length])
        start += length
        counts.append(len(part.ids))
        parts.append(part)
        waiting += length
        if waiting >= BLOCK or start == len(shard.text):
            tokens.append(np.concatenate([part.ids for part in parts]).astype(dtype))
            if varies:
                sizes.append(np.concatenate([part.sizes for part in parts]))
            parts, waiting = [], 0
    return Encoded(
        np.concatenate(tokens),
        np.array(counts, np.int64),
        np.concatenate(sizes) if varies else None,
    )


def shards(
    documents: Iterable[Document],
    clean: Callable[[Document], bytes],
    cut: Callable[[bytes], int],
) -> Iterator[Shard]:
    """Shards of at least SHARD bytes, but for the last one."""
    texts, opens, size, read = [], [], 0, 0
    for text, is_first, read in _pieces(documents, clean, cut):
        texts.append(text)
        opens.append(is_first)
        size += len(text)
        if size >= SHARD:
            yield _shard(texts, opens, read)
            texts, opens, size = [], [], 0
    if texts:
        yield _shard(texts, opens, read)


def _shard(texts: list[bytes], opens: list[bool], read: int) -> Shard:
    lengths_P = np.fromiter(map(len, texts), np.int64, len(texts))
    opens_P, text = np.array(opens), b"".join(texts)
    digest = hashlib.sha256(lengths_P)
    digest.update(opens_P)
    digest.update(text)
    return Shard(text, lengths_P, opens_P, read, digest.hexdigest())


def _pieces(documents, clean, cut) -> Iterator[tuple[bytes, bool, int]]:
    """Text that may be encoded alone, whether a document starts with it, bytes read."""
    held, is_first, wanted, read = b"", True, 0, 0
    for document in _blocks(documents):
        text = held + clean(document)
        held = b""
        read += len(document.text)
        if document.more:
            # The search starts anew each time: after one in vain, twice the text first.
            n = cut(text) if len(text) >= wanted else 0
            if n:
                wanted = 0
            elif len(text) >= wanted:
                wanted = 2 * len(text)
            text, held = text[:n], text[n:]
        if text:
            yield text, is_first, read
            is_first = False
        if not document.more:
            is_first, wanted = True, 0


def _blocks(documents: Iterable[Document]) -> Iterator[Document]:
    """The same documents, in blocks of no more than BLOCK bytes."""
    for document in documents:
        text, size = document.text, len(document.text)
        if size <= BLOCK:
            yield document
            continue
        for at in range(0, size, BLOCK):
            yield Document(
                text[at : at + BLOCK],
                document.file,
                document.offset + at,
                document.more or at + BLOCK < size,
            )
