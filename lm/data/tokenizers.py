"""Tokenizers: what turns the bytes of a text into ids, and ids back into bytes.

A tokenizer is made by a function of (config.data, folder of the cache, the Corpus of
the same text in bytes); what it learns, it learns from that corpus's training split.
"""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from lm.data import bpe, vocabulary
from lm.data.encoded import Encoded
from lm.data.pieces import Pieces
from lm.errors import ConfigError


class Tokenizer(Protocol):
    """What all tokenizers have; they can be pickled.

    Attributes:
      vocab_size: ids are 0 up to it.
      fingerprint: hex, over all that changes an id.
      bytes_per_token: int32 [V], or None where one id covers texts of several lengths.
      unknown: the id of texts that have none of their own, or None.
    """

    vocab_size: int
    fingerprint: str
    bytes_per_token: np.ndarray | None
    unknown: int | None

    def encode(self, text: bytes) -> Encoded:
        """Ids of any bytes, and what each covers."""

    def decode(self, ids) -> bytes:
        """The text of ids [N], "<unk>" for `unknown`; ValueError for no id."""

    def cut(self, text: bytes) -> int:
        """A place n, near the end of the text, where it may be cut: whatever follows,
        encode(text[:n]) and then encode(text[n:] + more) are encode(text + more).

        0 if the text has no such place that is cheap to find.
        """


class Bytes:
    """Token = byte."""

    vocab_size = 256
    fingerprint = hashlib.sha256(b"bytes 256").hexdigest()
    bytes_per_token = np.ones(256, np.int32)
    unknown = None

    def encode(self, text: bytes) -> Encoded:
        return Encoded(np.frombuffer(text, np.uint8).astype(np.int32))

    def decode(self, ids) -> bytes:
        return bytes(np.asarray(ids).tolist())

    def cut(self, text: bytes) -> int:
        return len(text)


def from_file(data, cache: Path, corpus) -> Tokenizer:
    """The tokenizer of data.tokenizer_path, by the end of its name."""
    key = f"data.tokenizer_path={data.tokenizer_path!r}"
    if not data.tokenizer_path:
        raise ConfigError(
            "data.tokenizer='file' needs data.tokenizer_path, a tokenizer.json or a "
            "SentencePiece .model"
        )
    path = Path(data.tokenizer_path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key} cannot be read: {error}") from error
    if path.suffix == ".model":
        return Pieces(content, key)
    try:
        return bpe.ByteLevelBPE(content.decode(), key)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{key} is no tokenizer.json, which is UTF-8; a SentencePiece model is "
            "known by the end of its name, .model"
        ) from error


TOKENIZERS = {
    "bytes": lambda data, cache, corpus: Bytes(),
    "characters": vocabulary.characters,
    "words": vocabulary.words,
    "bpe": bpe.learned,
    "file": from_file,
}
