"""Small corpora for tests."""

from configs.base import get_config
from lm.data.tokens import SPLITS


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
