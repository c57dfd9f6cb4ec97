"""Files that a corpus reads: found, opened and hashed, with errors that name them."""

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from lm.errors import ConfigError


def matches(corpus: str, path: str | None) -> list[str]:
    """Files that `path` (a file or a glob) names, sorted; ConfigError if none."""
    if not path:
        raise ConfigError(
            f"data.path is empty and data.corpus={corpus!r} needs it; give a file or a "
            "glob"
        )
    path = str(Path(path).expanduser())
    found = [path] if Path(path).exists() else glob.glob(path, recursive=True)
    files = sorted(name for name in found if Path(name).is_file())
    if not files:
        raise ConfigError(
            f"data.path={path!r} matches no file; give a file or a glob such as "
            f"{str(Path(path) / '*.txt') if Path(path).is_dir() else 'texts/*.txt'!r}"
        )
    return files


def opened(path: str) -> BinaryIO:
    """The file, open for reading bytes; ConfigError if it cannot be read."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise ConfigError(
            f"data.path: {path!r} cannot be read ({error.strerror}); make it readable "
            "or narrow the glob"
        ) from error


def digest(files: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """(SHA-256 of the files end to end, bytes of each)."""
    whole, sizes = hashlib.sha256(), []
    for path in files:
        with opened(path) as file:
            size = 0
            while block := file.read(1 << 20):
                whole.update(block)
                size += len(block)
        sizes.append(size)
    return whole.hexdigest(), tuple(sizes)
