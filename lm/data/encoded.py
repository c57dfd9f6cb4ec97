"""What a tokenizer makes of a text, and how what it learnt is kept."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

SIZE = np.dtype(np.int32)  # of a token's bytes


class Encoded(NamedTuple):
    """ids: int32 [N]. sizes: int32 [N], the bytes of the text that each covers, whose
    sum is the text's; None where `bytes_per_token` says it."""

    ids: np.ndarray
    sizes: np.ndarray | None = None


def joined(texts: list[bytes], ids) -> bytes:
    """The texts of ids [N], end to end; ValueError for an id that has none."""
    ids_N = np.asarray(ids, np.int64)
    if ids_N.size and not 0 <= ids_N.min() <= ids_N.max() < len(texts):
        raise ValueError(f"ids must be 0 to {len(texts) - 1}")
    return b"".join(texts[i] for i in ids_N.tolist())


def digest(**facts) -> str:
    """Hex SHA-256 of facts that json knows, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def kept(cache: Path, corpus, learn: Callable[[], str], **facts) -> str:
    """What `learn` returns, learnt once for a training text and `facts`.

    The file is named by all that it was learnt from; processes wait for one another.
    """
    facts |= dict(text=corpus.manifest["key"], span=corpus.manifest["splits"]["train"])
    path = cache / f"{facts['kind']}-{digest(**facts)[:16]}.json"
    if not path.exists():
        with FileLock(f"{path}.lock"):
            if not path.exists():
                new = path.with_suffix(".tmp")
                with open(new, "w", encoding="utf-8") as file:
                    file.write(learn())
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(path)
    return path.read_text(encoding="utf-8")


def documents(corpus) -> Iterator[bytes]:
    """The documents of the training split of a corpus of bytes."""
    starts = [*corpus.documents("train").tolist(), len(corpus.tokens("train"))]
    for start, stop in zip(starts, starts[1:], strict=False):
        yield corpus.decode(corpus.tokens("train")[start:stop])
