"""The token file: all documents end to end with their offsets, made once and shared."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from ml_collections import ConfigDict
from tqdm import tqdm

from lm.data.clean import INVALID_UTF8, Cleaner
from lm.data.corpora import CORPORA
from lm.data.corpus import Corpus
from lm.data.encoded import SIZE, digest
from lm.data.growing import PROGRESS, Growing
from lm.data.shards import Shard, shards, token_dtype
from lm.data.source import Source
from lm.data.tokenizers import TOKENIZERS, Tokenizer
from lm.data.workers import encode_all
from lm.errors import ConfigError

FORMAT = 1  # raise it when the same source would give other tokens or documents


def prepare(data) -> Corpus:
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
    key = digest(
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
