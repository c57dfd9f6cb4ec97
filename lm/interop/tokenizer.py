"""The tokenizer of a folder in Hugging Face's layout, and ours written as one."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.data.bpe import ALPHABET, ByteLevelBPE
from lm.data.pieces import Pieces
from lm.data.tokenizers import Bytes, Tokenizer
from lm.errors import ConfigError
from lm.interop.folder import json_of
from lm.interop.prompts import Prompts, special

END = "<|endoftext|>"  # of GPT-2: a token that no text is made of
PIECES = ("tokenizer.model", "spiece.model")


class Text(NamedTuple):
    """Prompts in and text out, as lm.data.Corpus has them, of a tokenizer alone.

    begin: ids that stand before a prompt, as transformers puts them there.
    bos: the id of a token that begins texts, put there or not, or None.
    """

    tokenizer: Tokenizer | Prompts
    begin: tuple[int, ...] = ()
    bos: int | None = None

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 [N]."""
        raw = text.encode() if isinstance(text, str) else text
        return self.tokenizer.encode(raw).ids

    def decode(self, ids) -> bytes:
        """Bytes of ids [N]."""
        return self.tokenizer.decode(ids)


def tokenizer_of(folder: str | Path) -> Text:
    """tokenizer.json; else vocab.json and merges.txt of GPT-2; else SentencePiece.

    The first two give the ids that transformers does. Of a SentencePiece model alone
    nothing is done that would change a text, as a space put before it.

    ConfigError for a folder without them.
    """
    folder = Path(folder)
    content, path, merges = None, folder / "tokenizer.json", folder / "merges.txt"
    if path.is_file():
        content = text_of(path)
    elif (path := folder / "vocab.json").is_file() and merges.is_file():
        content = _of_gpt2(path, merges)
    if content is not None:
        made = Prompts(content, str(path), settings_of(folder))
        return Text(made, made.begin, made.bos)
    for name in PIECES:
        if (folder / name).is_file():
            return Text(Pieces((folder / name).read_bytes(), str(folder / name)))
    raise ConfigError(
        f"{folder} has no tokenizer: no tokenizer.json, no vocab.json with merges.txt, "
        f"no {PIECES[0]}"
    )


class Marked:
    """A tokenizer that puts marks around a text, as BERT's [CLS] and [SEP], and may
    change it, as by lower case: for encoders, which give no text back.

    Attributes:
      vocab_size: ids are 0 up to it.
      mask, mask_id: the mark of a token that is to be filled in; None: there is none.
    """

    def __init__(self, tokenizer, mask: str | None):
        """tokenizer: of the package `tokenizers`."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self.mask = tokenizer, mask
        self.vocab_size: int = tokenizer.get_vocab_size()
        self.mask_id = None if mask is None else tokenizer.token_to_id(mask)

    def encode(self, text: str, other: str | None = None):
        """(ids, types), int32 [N]: of a text, or of two as the model reads a pair."""
        found = self._tokenizer.encode(text, other)
        return np.array(found.ids, np.int32), np.array(found.type_ids, np.int32)

    def token(self, i: int) -> str:
        """The text of one token."""
        return self._tokenizer.id_to_token(i) or ""


def marked(folder: str | Path) -> Marked:
    """The tokenizer of an encoder: tokenizer.json, else vocab.txt of BERT.

    ConfigError for a folder without them, and for a file that is none.
    """
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    folder = Path(folder)
    path, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if not path.is_file() and not vocabulary.is_file():
        raise ConfigError(f"{folder} has no tokenizer: no tokenizer.json, no vocab.txt")
    stored = settings_of(folder)
    mask = special({"mask_token": "[MASK]"} | stored, "mask_token")
    try:
        if path.is_file():
            made = Tokenizer.from_str(text_of(path))
        else:
            lower = stored.get("do_lower_case", True)
            made = BertWordPieceTokenizer(str(vocabulary), lowercase=lower)
    except ConfigError:
        raise
    except Exception as error:  # the package raises no narrower one
        raise ConfigError(f"{path} is no tokenizer: {error}") from error
    if mask is not None and made.token_to_id(mask) is None:
        mask = None
    return Marked(made, mask)


def settings_of(folder: Path) -> dict:
    """tokenizer_config.json, or nothing."""
    path = folder / "tokenizer_config.json"
    return json_of(path) if path.is_file() else {}


def ends_of(folder: str | Path) -> tuple[int, ...]:
    """Ids with which a text ends: of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        ids = json_of(path).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def text_of(path: Path) -> str:
    """Of a file; ConfigError for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from error


def _of_gpt2(vocabulary: Path, merges: Path) -> str:
    """The tokenizer.json of GPT-2's pair of files."""
    from tokenizers import models

    try:
        return _byte_level(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the package raises no narrower one
        raise ConfigError(
            f"{vocabulary} and {merges.name} are no BPE: {error}"
        ) from error


def _byte_level(model) -> str:
    """A tokenizer.json of a BPE model under GPT-2's pre-tokenisation."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if made.token_to_id(END) is not None:
        made.add_special_tokens([END])
    return made.to_str()


def written(tokenizer: Tokenizer) -> str | None:
    """The tokenizer.json that gives the same ids (where it has NFC, of texts in that
    form), or None if there is none.

    Of bytes: a byte-level BPE without merges, since token = byte.
    """
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level |= {"use_regex": True}
    if isinstance(tokenizer, ByteLevelBPE):
        spec = json.loads(tokenizer.content)
        # Ids need none, transformers does.
        spec["decoder"] = spec.get("decoder") or level
    elif isinstance(tokenizer, Bytes):
        model = {"type": "BPE", "vocab": dict(ALPHABET), "merges": []}
        spec = {"version": "1.0", "pre_tokenizer": level, "decoder": level}
        spec |= {"model": model, "added_tokens": []}
        spec |= {"normalizer": None, "post_processor": None}
    else:
        return None
    return json.dumps(spec, ensure_ascii=False)
