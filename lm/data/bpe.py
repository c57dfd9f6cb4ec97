"""Byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909; over bytes as in GPT-2).

Learnt or read by the package `tokenizers`. That takes text only: a byte that is no
UTF-8 is the token of this byte alone, and a boundary.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm.data.encoded import Encoded, documents, joined, kept
from lm.data.vocabulary import whole_characters
from lm.errors import ConfigError


def _alphabet() -> dict[str, int]:
    """{letter: byte} of GPT-2: printable bytes are themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


ALPHABET = _alphabet()


class ByteLevelBPE:
    """content: a tokenizer.json whose every byte has a token.

    Its normalizer may be NFC, which is left out: tokens cover the text as it is, and
    are those of the file where the text is in that form.

    ConfigError, naming `key`, for what is none, and for one with another normalizer or
    model or without a token of each byte; in `encode` for one whose tokens do not cover
    the text.
    """

    unknown = None

    def __init__(self, content: str, key: str = "data.tokenizer"):
        from tokenizers import Tokenizer

        try:
            spec = json.loads(content)
        except ValueError as error:
            raise ConfigError(f"{key} is no tokenizer.json: {error}") from error
        self._splits_as_gpt2 = _splits_as_gpt2(spec)
        self._normalizer = spec.get("normalizer")
        if self._normalizer == {"type": "NFC"}:
            spec["normalizer"] = None
        if spec.get("normalizer") or (spec.get("model") or {}).get("type") != "BPE":
            raise ConfigError(
                f"{key} is no byte-level BPE without a normalizer but NFC: such a "
                "tokenizer changes text, and bits per byte of it would mean nothing; "
                "give another, or learn one with data.tokenizer=bpe"
            )
        self._model = Tokenizer.from_str(json.dumps(spec))
        self._model.no_truncation()
        self._model.no_padding()
        self.vocab_size = 1 + max(self._model.get_vocab().values(), default=-1)
        added = {each["id"]: each["content"] for each in spec.get("added_tokens", ())}
        self._bytes = [b""] * self.vocab_size
        for token, i in self._model.get_vocab().items():
            if i not in added and set(token) <= ALPHABET.keys():
                self._bytes[i] = bytes(ALPHABET[letter] for letter in token)
        of_byte = {raw[0]: i for i, raw in enumerate(self._bytes) if len(raw) == 1}
        if len(of_byte) < 256:
            raise ConfigError(
                f"{key} has no token for {256 - len(of_byte)} of the 256 bytes: give a "
                "byte-level BPE, or learn one with data.tokenizer=bpe"
            )
        self._of_byte = [of_byte[byte] for byte in range(256)]
        for i, text in added.items():
            self._bytes[i] = text.encode()
        sizes = [len(raw) for raw in self._bytes]
        self.bytes_per_token = np.array(sizes, np.int32)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: bytes) -> Encoded:
        ids: list[int] = []
        for run in runs(text):
            if isinstance(run, int):
                ids.append(self._of_byte[run])
            else:
                ids += self._model.encode(run, add_special_tokens=False).ids
        ids_N = np.array(ids, np.int32)
        covered = int(self.bytes_per_token[ids_N].sum())
        if covered != len(text):
            raise ConfigError(
                f"the tokenizer's tokens cover {covered} bytes of a text of "
                f"{len(text)}: it adds or drops text, as add_prefix_space does; give "
                "another tokenizer.json"
            )
        return Encoded(ids_N)

    def decode(self, ids) -> bytes:
        return joined(self._bytes, ids)

    @property
    def content(self) -> str:
        """A tokenizer.json of it, with its normalizer."""
        spec = json.loads(self._model.to_str()) | {"normalizer": self._normalizer}
        return json.dumps(spec, ensure_ascii=False)

    def cut(self, text: bytes) -> int:
        """Before the last white space after another character: no piece of GPT-2's
        pattern reaches across, and what is before it looks no further."""
        if not self._splits_as_gpt2:
            return 0
        known = whole_characters(text)
        n = len(known) - 1
        while n > 0 and (known[n] not in " \n\t\r" or known[n - 1].isspace()):
            n -= 1
        return len(known[: max(n, 0)].encode(errors="surrogateescape"))


def _splits_as_gpt2(spec: dict) -> bool:
    """True if text is cut by GPT-2's pattern alone, which `cut` relies on."""
    split = spec.get("pre_tokenizer") or {}
    level = split.get("type") == "ByteLevel" and split.get("use_regex", True)
    plain = all(
        not (each.get("lstrip") or each.get("rstrip") or each.get("single_word"))
        and not any(letter.isspace() for letter in each["content"])
        for each in spec.get("added_tokens", ())
    )
    return level and plain


def runs(text: bytes) -> Iterator[str | int]:
    """Runs of UTF-8 and, one by one, the bytes that are none."""
    while text:
        try:
            yield text.decode()
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield text[: error.start].decode()
            yield text[error.start]
            text = text[error.start + 1 :]


def learned(data, cache: Path, corpus) -> ByteLevelBPE:
    """data.vocab_size tokens, or fewer: of pairs seen data.min_count times at least."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers import __version__ as version

    if data.vocab_size < 256:
        raise ConfigError(
            f"data.vocab_size={data.vocab_size} is below 256, the bytes that BPE "
            "starts from; raise it"
        )

    def learn() -> str:
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=data.vocab_size,
            min_frequency=data.min_count,
            initial_alphabet=sorted(ALPHABET),
            show_progress=False,
        )
        texts = (r for d in documents(corpus) for r in runs(d) if isinstance(r, str))
        model.train_from_iterator(texts, trainer)
        return model.to_str()

    content = kept(
        cache,
        corpus,
        learn,
        kind="bpe",
        vocab_size=data.vocab_size,
        min_count=data.min_count,
        version=version,
    )
    return ByteLevelBPE(content)
