"""The token file: all documents end to end with their offsets, made once and shared."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from ml_collections import ConfigDict
from tqdm import tqdm

from lm.data.clean import INVALID_UTF8, Cleaner
from lm.data.corpora import CORPORA
from lm.data.growing import PROGRESS, Growing
from lm.data.shards import Shard, shards, token_dtype
from lm.data.source import Source
from lm.data.splits import SPLITS, bounds, check_windows, inside
from lm.data.tokenizers import TOKENIZERS, Tokenizer
from lm.data.workers import encode_all
from lm.errors import ConfigError

FORMAT = 1  # raise it when the same source would give other tokens or documents
SIZE = np.dtype(np.int32)  # of an entry of sizes.bin
COARSE = 4096  # places of the list of documents that are held in memory


def prepare(data) -> "Corpus":
    """The corpus that `config.data` names, its token file made first if it is missing.

    Several processes may call this at once. ConfigError, naming the key, for a source
    that cannot be read, that holds no text or that is too small for its splits.

    Every other tokenizer starts from the token file of bytes: it learns from the
    training split of that, and its splits hold the same text.
    """
    _check(data)
    in_bytes = None if data.tokenizer == "bytes" else prepare(as_bytes(data))
    source = CORPORA[data.corpus](data)
    cache = _cache(data.cache)
    tokenizer = TOKENIZERS[data.tokenizer](data, cache, in_bytes)
    key = _digest(
        format=FORMAT,
        sha256=source.sha256,
        parts=source.parts,
        rule=source.rule,
        invalid_utf8=data.invalid_utf8,
        max_document=data.max_document,
        tokenizer=tokenizer.fingerprint,
    )
    folder = cache / f"{data.corpus}-{key[:16]}"
    if not _is_whole(folder, tokenizer):
        with FileLock(f"{folder}.lock"):
            if not _is_whole(folder, tokenizer):
                _make(folder, data, source, tokenizer, key)
    return Corpus(folder, data, source, tokenizer, in_bytes)


def as_bytes(data) -> ConfigDict:
    """config.data of the same text, in bytes."""
    return ConfigDict(
        data.to_dict() | dict(tokenizer="bytes", tokenizer_path=None, context=1)
    )


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
    """An open token file, its splits and its tokenizer."""

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
        self._tokenizer = tokenizer
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
        self.fingerprint: str = _digest(key=stored["key"], splits=self._bounds)
        # Files of equal content share a token file: the names are this caller's own.
        self.manifest: dict = (
            stored
            | source.facts
            | dict(
                source=source.name,
                version=source.version,
                splits=self._bounds,
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
        return self._tokenizer.encode(raw).ids

    def decode(self, ids) -> bytes:
        """Bytes of ids [N]."""
        return self._tokenizer.decode(ids)

    def _sizes(self, start: int, stop: int) -> np.ndarray:
        """int32 [stop - start]: bytes that these tokens of the corpus cover."""
        if self._stored_sizes is not None:
            return self._stored_sizes()[start:stop]
        return self._tokenizer.bytes_per_token[self._tokens()[start:stop]]

    def _split(self, split: str) -> list[int]:
        if split not in self._bounds:
            raise ConfigError(f"split {split!r} is unknown; use one of {SPLITS}")
        return self._bounds[split]


def _check(data) -> None:
    """ConfigError for a value of `data` that no corpus can mean."""
    for key, known in (
        ("corpus", CORPORA),
        ("tokenizer", TOKENIZERS),
        ("invalid_utf8", INVALID_UTF8),
    ):
        value = getattr(data, key)
        if value not in known:
            raise ConfigError(
                f"data.{key}={value!r} is unknown; use one of {', '.join(known)}"
            )
    for key in ("max_document", "train_bytes", "eval_bytes"):
        if getattr(data, key) is not None and getattr(data, key) < 1:
            raise ConfigError(
                f"data.{key}={getattr(data, key)} must be at least 1, or None"
            )
    split = tuple(data.split)
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ConfigError(
            f"data.split={split} must be three positive fractions (train, validation, "
            "test) whose sum is 1"
        )


def _cache(path: str | None) -> Path:
    """The folder of token files, made if missing; ConfigError if it cannot be."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(path or Path(base) / "lm").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"data.cache: {str(folder)!r} cannot be made ({error.strerror}); give a "
            "folder that can be written"
        ) from error
    return folder


def _is_whole(folder: Path, tokenizer: Tokenizer) -> bool:
    """True if the token file is there and has the size its manifest states."""
    if not (folder / "manifest.json").exists():
        return False
    stored = json.loads((folder / "manifest.json").read_text())
    dtypes = {"tokens.bin": np.dtype(stored["dtype"])}
    if tokenizer.bytes_per_token is None:
        dtypes["sizes.bin"] = SIZE
    return all(
        (folder / name).stat().st_size == stored["tokens"] * dtype.itemsize
        for name, dtype in dtypes.items()
    )


def _make(folder: Path, data, source: Source, tokenizer, key: str) -> None:
    """Makes `folder` under its lock, whole or not at all."""
    if folder.exists():
        shutil.rmtree(folder)
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(exist_ok=True)
    try:
        manifest = _write(part, data, source, tokenizer)
        if CORPORA[data.corpus](data).sha256 != source.sha256:
            raise ConfigError(
                f"data.path={data.path!r} changed while it was read; rerun"
            )
    except ConfigError:
        shutil.rmtree(part)
        raise
    manifest |= source.facts | {"key": key}  # facts of a whole reading too
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in part.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    part.rename(folder)
    (folder / PROGRESS).unlink()


def _write(folder: Path, data, source: Source, tokenizer) -> dict:
    """Writes the token file, from where an earlier process was stopped; the manifest.

    Progress goes to stderr if it is a terminal and there is more than a second of work.
    """
    clean = Cleaner(data.invalid_utf8)
    size = sum(source.parts)
    with (
        Growing(folder, tokenizer, data.max_document) as made,
        tqdm(
            desc=f"tokens of {data.corpus}",
            total=size,
            unit="B",
            unit_scale=True,
            delay=1,
            disable=None,
        ) as bar,
    ):

        def missing() -> Iterator[Shard]:
            for shard in shards(source.documents(), clean, tokenizer.cut):
                if made.has(shard):
                    bar.update(shard.read - bar.n)
                else:
                    yield shard

        for shard, encoded in encode_all(missing(), tokenizer):
            made.append(shard, encoded)
            bar.update(shard.read - bar.n)
        whole = made.finish()
    if not whole.tokens:
        raise ConfigError(
            f"data.path={data.path!r} holds no text ({size} bytes); give another file"
        )
    counts = clean.counts | dict(
        documents_split=whole.split, longest_document_tokens=whole.longest
    )
    return dict(
        source=source.name,
        version=source.version,
        sha256=source.sha256,
        bytes=size,
        tokens=whole.tokens,
        dtype=token_dtype(tokenizer).name,
        documents=whole.documents,
        tokenizer=tokenizer.fingerprint,
    ) | {name: int(count) for name, count in counts.items()}


def _digest(**facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
