"""Small corpora for tests."""

import re
import zlib

import numpy as np

from configs.base import get_config
from lm.data.splits import SPLITS
from lm.data.tokenizers import Encoded


def config(folder, raw=None, **changes):
    """config.data over one file of `raw` bytes, context 1, caches under `folder`."""
    data = get_config().data
    data.update(cache=str(folder / "cache"), context=1)
    if raw is not None:
        (folder / "text.txt").write_bytes(raw)
        data.update(corpus="text", path=str(folder / "text.txt"))
    data.update(changes)
    return data


def everything(corpus):
    """Tokens of all splits as bytes, and starts of documents in all of them."""
    text, starts = b"", []
    for split in SPLITS:
        starts += list(corpus.documents(split) + len(text))
        text += corpus.decode(corpus.tokens(split))
    return text, starts


class Runs:
    """Token = a run of letters, or one other byte: one id covers many lengths."""

    vocab_size = 65536
    fingerprint = "runs"
    bytes_per_token = None
    unknown = None

    def encode(self, text):
        runs = re.findall(rb"[a-z]+|[^a-z]", text)
        return Encoded(
            np.array([zlib.crc32(run) & 0xFFFF for run in runs], np.int32),
            np.array([len(run) for run in runs], np.int32),
        )

    def cut(self, text):
        return len(text) - len(re.search(rb"[a-z]*\Z", text)[0])
