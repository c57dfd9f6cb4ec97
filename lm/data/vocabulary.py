"""Characters and words: an id for each text of a vocabulary, <unk> for all others.

Bytes that are not UTF-8 are characters of their own (Python's "surrogateescape").
"""

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lm.data.encoded import Encoded, documents, joined, kept
from lm.errors import ConfigError

UNKNOWN = "<unk>"
# A word or a mark goes with the space before it; other white space is alone.
WORD = re.compile(r" ?\w+| ?[^\w\s]|\s")


class Vocabulary:
    """texts: of ids 1, 2, ...; 0 is <unk>. Their concatenation is any known text."""

    unknown = 0
    bytes_per_token = None

    def __init__(self, texts: list[str]):
        self._bytes = [UNKNOWN.encode(), *map(_raw, texts)]
        self._ids = {text: i for i, text in enumerate(texts, 1)}
        self.vocab_size = len(self._bytes)
        whole = json.dumps([type(self).__name__, texts]).encode()
        self.fingerprint = hashlib.sha256(whole).hexdigest()

    @staticmethod
    def pieces(text: str) -> list[str]:
        """The texts that have an id each; put end to end they are `text`."""
        raise NotImplementedError

    def encode(self, text: bytes) -> Encoded:
        pieces = self.pieces(text.decode(errors="surrogateescape"))
        ids = [self._ids.get(piece, self.unknown) for piece in pieces]
        sizes = [
            len(self._bytes[i]) if i else len(_raw(piece))
            for i, piece in zip(ids, pieces, strict=True)
        ]
        return Encoded(np.array(ids, np.int32), np.array(sizes, np.int32))

    def decode(self, ids) -> bytes:
        return joined(self._bytes, ids)


class Characters(Vocabulary):
    """Token = character."""

    @staticmethod
    def pieces(text: str) -> list[str]:
        return list(text)

    def cut(self, text: bytes) -> int:
        return len(_raw(whole_characters(text)))


class Words(Vocabulary):
    """Token = word or mark, each with the space before it, or white space."""

    @staticmethod
    def pieces(text: str) -> list[str]:
        return WORD.findall(text)

    def cut(self, text: bytes) -> int:
        known = whole_characters(text)
        # A word at the end may go on, a space may belong to a word to come.
        n = len(known)
        while n and re.fullmatch(r"\w", known[n - 1]):
            n -= 1
        n -= known[:n].endswith(" ")
        return len(_raw(known[:n]))


def whole_characters(text: bytes) -> str:
    """The text without a character that bytes to come might complete."""
    return codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(text)


def characters(data, cache: Path, corpus) -> Characters:
    """Characters seen data.min_count times in the training text."""
    return Characters(_learned(data, cache, corpus, "characters", Characters.pieces))


def words(data, cache: Path, corpus) -> Words:
    """Words seen data.min_count times in the training text."""
    return Words(_learned(data, cache, corpus, "words", WORD.findall))


def _learned(data, cache: Path, corpus, kind: str, pieces: Callable) -> list[str]:
    """Texts by falling count in the training text, equal counts by the alphabet."""

    def learn() -> str:
        counts = Counter()
        for document in documents(corpus):
            counts.update(pieces(document.decode(errors="surrogateescape")))
        often = [text for text in counts if counts[text] >= data.min_count]
        return json.dumps(sorted(often, key=lambda text: (-counts[text], text)))

    texts = json.loads(
        kept(
            cache, corpus, learn, kind=kind, min_count=data.min_count, unit=WORD.pattern
        )
    )
    if not texts:
        raise ConfigError(
            f"data.min_count={data.min_count} leaves no {kind} of the training text; "
            "lower it"
        )
    return texts


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
