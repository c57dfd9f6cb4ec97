"""An open token file: what the rest of the library knows of a text."""

import json
import os
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.data.encoded import SIZE, digest
from lm.data.source import Source
from lm.data.splits import SPLITS, bounds, check_windows, inside
from lm.data.tokenizers import Tokenizer
from lm.errors import ConfigError

COARSE = 4096  # places of the list of documents that are held in memory


class _Mapped(NamedTuple):
    """A file of numbers; each call maps it anew."""

    file: FileIO
    dtype: np.dtype | str
    offset: int

    def __call__(self) -> np.ndarray:
        # A plain array: slices of a memmap take longer to make.
        mapped = np.memmap(self.file, self.dtype, mode="r", offset=self.offset)
        return np.asarray(mapped)


class Corpus:
    """An open token file, its splits and its tokenizer.

    Attributes:
      begin, bos: ids that stand before a prompt, or could: none, as rows begin
        anywhere.
    """

    begin: tuple[int, ...] = ()
    bos: int | None = None

    def __init__(
        self, folder: Path, data, source: Source, tokenizer: Tokenizer, in_bytes
    ):
        stored = json.loads((folder / "manifest.json").read_text())
        # Open for good: the cache may be emptied while a run goes on.
        self._tokens = _Mapped(FileIO(folder / "tokens.bin"), stored["dtype"], 0)
        documents = np.load(folder / "documents.npy", mmap_mode="r")
        self._documents = _Mapped(
            FileIO(folder / "documents.npy"), documents.dtype, documents.offset
        )
        self.tokenizer = tokenizer
        self.vocab_size: int = tokenizer.vocab_size
        self.unknown: int | None = tokenizer.unknown
        self._stored_sizes = None
        if tokenizer.bytes_per_token is None:
            self._stored_sizes = _Mapped(FileIO(folder / "sizes.bin"), SIZE, 0)
        if in_bytes is None:
            self._bounds = bounds(stored["tokens"], data)
        else:
            spans = in_bytes.manifest["splits"]
            self._bounds = inside(spans, stored["tokens"], self._sizes)
        check_windows(self._bounds, stored["tokens"], data)
        edges = [[start + 1, stop] for start, stop in self._bounds.values()]
        found = np.searchsorted(documents, edges).tolist()
        self._inside = dict(zip(self._bounds, found, strict=True))
        # One in `step`, read and not mapped: see `opened`.
        step = max(len(documents) // COARSE, 1)
        at = range(documents.offset, documents.offset + documents.nbytes, 8 * step)
        file = self._documents.file.fileno()
        entries = b"".join(os.pread(file, 8, place) for place in at)
        self._coarse, self._step = np.frombuffer(entries, documents.dtype), step
        self.fingerprint: str = digest(key=stored["key"], splits=self._bounds)
        # Files of equal content share a token file: the names are this caller's own.
        self.manifest: dict = (
            stored
            | source.facts
            | dict(
                source=source.name,
                version=source.version,
                splits=self._bounds,
                vocab_size=self.vocab_size,
                fingerprint=self.fingerprint,
            )
        )

    def tokens(self, split: str) -> np.ndarray:
        """Tokens [N] of a split, memory-mapped anew: what was read of them counts as
        this process's memory for as long as the array lives, so keep none for long."""
        start, stop = self._split(split)
        return self._tokens()[start:stop]

    def sizes(self, split: str) -> np.ndarray:
        """int32 [N]: bytes of the text that each token of a split covers."""
        return self._sizes(*self._split(split))

    def documents(self, split: str) -> np.ndarray:
        """int64 [n]: starts of documents in the split; the first is 0.

        A copy, but for the split at the start of the corpus, which is mapped as above.
        """
        start, _ = self._split(split)
        first, last = self._inside[split]
        if start == 0:
            return self._documents()[:last]
        return np.concatenate([[0], self._documents()[first:last] - start])

    def opened(self, split: str, token_B) -> np.ndarray:
        """How many documents of the split start at or before each token, [B].

        As np.searchsorted(documents(split), token_B, "right"), which in a large corpus
        looks at places all over the file: the system may count 2 MB as memory for each.
        """
        documents_D = self.documents(split)
        if self._split(split)[0]:
            return np.searchsorted(documents_D, token_B, "right")
        step = self._step
        last_B = np.searchsorted(self._coarse, token_B, "right") - 1
        near = [documents_D[n * step : (n + 1) * step] for n in last_B]
        pairs = zip(near, token_B, strict=True)
        return last_B * step + [np.searchsorted(d, t, "right") for d, t in pairs]

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 [N]."""
        raw = text.encode() if isinstance(text, str) else text
        return self.tokenizer.encode(raw).ids

    def decode(self, ids) -> bytes:
        """Bytes of ids [N]."""
        return self.tokenizer.decode(ids)

    def _sizes(self, start: int, stop: int) -> np.ndarray:
        """int32 [stop - start]: bytes that these tokens of the corpus cover."""
        if self._stored_sizes is not None:
            return self._stored_sizes()[start:stop]
        return self.tokenizer.bytes_per_token[self._tokens()[start:stop]]

    def _split(self, split: str) -> list[int]:
        if split not in self._bounds:
            raise ConfigError(f"split {split!r} is unknown; use one of {SPLITS}")
        return self._bounds[split]
