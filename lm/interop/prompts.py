"""A tokenizer.json as transformers reads it, for prompts and texts that are scored."""

import json
import re

import numpy as np

from lm.data.bpe import ALPHABET
from lm.data.encoded import Encoded, joined
from lm.data.pieces import SPACE
from lm.errors import ConfigError

BYTE = re.compile("<0x([0-9A-F]{2})>")


class Prompts:
    """Whatever the file does to a text is done: normal forms, a space put before it.

    A corpus is not read so, since bits per byte would be of another text: lm.data.bpe
    and lm.data.pieces leave texts as they are.

    Args:
      content: of a tokenizer.json; key: what it is called in errors.
      settings: of the tokenizer_config.json beside it; the LlamaTokenizer of
        transformers puts a space before a text in its own way.

    Attributes:
      vocab_size: ids are 0 up to it.
      begin: ids that its post-processor puts before a text, as of a BOS token.
      bos: the id of the settings' BOS token, put there or not.
      unknown: the id of what no token covers, or None.

    ConfigError for what is none, for one that ends a prompt with a token, and for one
    whose tokens give no text back, as BERT's.
    """

    def __init__(self, content: str, key: str, settings: dict | None = None):
        from tokenizers import Tokenizer

        settings = settings or {}
        try:
            spec = json.loads(content)
            if str(settings.get("tokenizer_class")).startswith("LlamaTokenizer"):
                spec = _of_llama(spec, settings)
            self._model = Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the package raises no narrower one
            raise ConfigError(f"{key} is no tokenizer.json: {error}") from error
        self._model.no_truncation()
        self._model.no_padding()
        decoder = _parts(spec.get("decoder"))
        parts = [*decoder, *_parts(spec.get("pre_tokenizer"))]
        kinds = {part["type"] for part in parts}
        letters = "ByteLevel" in kinds
        if not letters and not kinds & {"Metaspace", "ByteFallback", "Replace"}:
            raise ConfigError(
                f"{key} gives no text back: its tokens are neither bytes nor pieces "
                "with their spaces"
            )
        self._strips = any(map(_strips, decoder))
        vocabulary = self._model.get_vocab()
        added = {each["content"] for each in spec.get("added_tokens", ())}
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        self._bytes = [b""] * self.vocab_size
        for token, i in vocabulary.items():
            self._bytes[i] = (
                token.encode() if token in added else _bytes(token, letters)
            )
        self.unknown = _unknown(spec["model"], vocabulary)
        self.begin = self._begin(key)
        self.bos = self._model.token_to_id(special(settings, "bos_token") or "")

    def encode(self, text: bytes) -> Encoded:
        """Ids without `begin`, and the bytes of the text up to each token's end that no
        token before covers; a byte that is no UTF-8 becomes U+FFFD."""
        known = text.decode(errors="replace")
        found = self._model.encode(known, add_special_tokens=False)
        bytes_of = np.cumsum([0, *(len(letter.encode()) for letter in known)])
        ends_N = np.maximum.accumulate([0, *(end for _, end in found.offsets)])
        sizes_N = np.diff(bytes_of[ends_N]).astype(np.int32)
        return Encoded(np.array(found.ids, np.int32), sizes_N)

    def decode(self, ids) -> bytes:
        """As transformers does with skip_special_tokens=False."""
        text = joined(self._bytes, ids)
        return text.removeprefix(b" ") if self._strips else text

    def token(self, i: int) -> str:
        """The text of one token."""
        return self._bytes[i].decode(errors="replace")

    def _begin(self, key: str) -> tuple[int, ...]:
        bare = self._model.encode("a", add_special_tokens=False).ids
        whole = self._model.encode("a").ids
        starts = range(len(whole) - len(bare) + 1)
        at = next((i for i in starts if whole[i : i + len(bare)] == bare), 0)
        if after := whole[at + len(bare) :]:
            ends = ", ".join(map(self.token, after))
            raise ConfigError(
                f"{key} puts {ends} after a text, which ends it: nothing would go on; "
                "take it out of the post_processor"
            )
        return tuple(whole[:at])


def _of_llama(spec: dict, settings: dict) -> dict:
    """A tokenizer.json of pieces as LlamaTokenizer of transformers 5 makes it."""
    if not spec["model"].get("byte_fallback"):
        return spec
    put = settings.get("add_prefix_space") is not False
    scheme = "always" if settings.get("legacy") else "first"
    space = {"type": "Metaspace", "replacement": SPACE, "split": False}
    space |= {"prepend_scheme": scheme if put else "never"}
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = {"type": "Sequence", "decoders": decoders + [strip] * put}
    return spec | {"normalizer": None, "pre_tokenizer": space, "decoder": decoder}


def special(settings: dict, name: str) -> str | None:
    """A token of tokenizer_config.json, as bos_token; ConfigError for what is none."""
    value = settings.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"tokenizer_config.json: {name}={value!r} is no text")
    return value


def _parts(spec: dict | None) -> list[dict]:
    """A component, or those of a sequence of them."""
    inner = [spec] if spec else []
    for name in ("decoders", "pretokenizers"):
        inner = [each for part in inner for each in part.get(name, [part])]
    return inner


def _strips(part: dict) -> bool:
    """Whether a decoder takes a text's first space as the tokenizer's own."""
    put = part["type"] == "Metaspace" and part.get("prepend_scheme") != "never"
    return put or part["type"] == "Strip"


def _bytes(token: str, letters: bool) -> bytes:
    """What a token stands for; letters: whether characters are bytes, as GPT-2's."""
    if letters:
        known = set(token) <= ALPHABET.keys()
        return bytes(ALPHABET[x] for x in token) if known else token.encode()
    if found := BYTE.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace(SPACE, " ").encode()


def _unknown(model: dict, vocabulary: dict[str, int]) -> int | None:
    if model.get("byte_fallback"):
        return None
    return vocabulary.get(model.get("unk_token") or "", model.get("unk_id"))
