"""SentencePiece models (Kudo and Richardson 2018, arXiv 1808.06226), unigram or BPE.

Read by the package `sentencepiece`, which is needed for them alone. Of what a model
would do to a text (Unicode normalisation, a space put before it, spaces joined) nothing
is done: tokens cover the text as it is, so bits per byte mean something.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from lm.data.bpe import runs
from lm.data.encoded import Encoded, joined
from lm.data.vocabulary import UNKNOWN, whole_characters
from lm.errors import ConfigError

SPACE = "\u2581"  # stands for a space in pieces


class Pieces:
    """content: of a .model file. ConfigError, naming `key`, for what is none.

    A model with byte_fallback has a token of each byte and no <unk>; of others what no
    piece covers is <unk>. SPACE in a text, which in pieces would be a space, is taken
    as bytes that are no text.
    """

    def __init__(self, content: bytes, key: str):
        model = _read(content, key)
        kinds = type(model).SentencePiece
        self.vocab_size = len(model.pieces)
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self._bytes = [b""] * self.vocab_size
        self._ids, of_byte, self.unknown = {}, {}, None
        for i, piece in enumerate(model.pieces):
            if piece.type == kinds.UNKNOWN:
                self.unknown, self._bytes[i] = i, UNKNOWN.encode()
            elif piece.type == kinds.BYTE:
                byte = int(piece.piece[1:-1], 16)  # <0xE6>
                self._ids[piece.piece], of_byte[byte] = i, i
                self._bytes[i] = bytes([byte])
            elif piece.type != kinds.CONTROL:
                self._ids[piece.piece] = i
                self._bytes[i] = piece.piece.replace(SPACE, " ").encode()
        if len(of_byte) == 256:
            self.unknown = None
        self._of_byte = [of_byte.get(byte, self.unknown) for byte in range(256)]
        self.bytes_per_token = None
        if self.unknown is None:
            sizes = [len(raw) for raw in self._bytes]
            self.bytes_per_token = np.array(sizes, np.int32)
        # A space after another character begins a piece.
        inside = any(SPACE in text.lstrip(SPACE) for text in self._ids)
        self._splits_at_spaces = SPACE in self._ids and not inside
        self._model = model.SerializeToString()

    @functools.cached_property
    def _processor(self):
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self._model)

    def __getstate__(self):
        return {name: x for name, x in vars(self).items() if name != "_processor"}

    def encode(self, text: bytes) -> Encoded:
        ids, sizes = [], []
        for run in _runs(text):
            if isinstance(run, int):
                ids.append(self._of_byte[run])
                sizes.append(1)
                continue
            for piece in self._processor.encode(run, out_type=str):
                known = self._ids.get(piece)
                raw = piece.replace(SPACE, " ").encode()
                ids.append(self.unknown if known is None else known)
                sizes.append(len(raw if known is None else self._bytes[known]))
        if sum(sizes) != len(text):
            raise ConfigError(
                f"the SentencePiece model's pieces cover {sum(sizes)} bytes of a text "
                f"of {len(text)}: give another data.tokenizer_path"
            )
        if self.unknown is None:
            return Encoded(np.array(ids, np.int32))
        return Encoded(np.array(ids, np.int32), np.array(sizes, np.int32))

    def decode(self, ids) -> bytes:
        return joined(self._bytes, ids)

    def cut(self, text: bytes) -> int:
        """Before the last space that follows another character."""
        if not self._splits_at_spaces:
            return 0
        known = whole_characters(text)
        n = len(known) - 1
        while n > 0 and (known[n] != " " or known[n - 1] == " "):
            n -= 1
        return len(known[: max(n, 0)].encode(errors="surrogateescape"))


def _read(content: bytes, key: str):
    """The ModelProto without what changes a text."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise ConfigError(
            f"{key} is a SentencePiece model: pip install sentencepiece protobuf"
        ) from error
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ConfigError(f"{key} is no SentencePiece model: {error}") from error
    if not model.pieces:
        raise ConfigError(f"{key} is no SentencePiece model: it has no pieces")
    spec = model.normalizer_spec
    spec.precompiled_charsmap, spec.normalization_rule_tsv = b"", ""
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = False
    return model


def _runs(text: bytes) -> Iterator[str | int]:
    """Runs of text without SPACE and, one by one, the bytes of all else."""
    for run in runs(text):
        if isinstance(run, int):
            yield run
            continue
        for i, part in enumerate(run.split(SPACE)):
            if i:
                yield from SPACE.encode()
            if part:
                yield part
