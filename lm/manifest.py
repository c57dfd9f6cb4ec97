"""The manifest of a folder: what it is, and size and checksum of each of its files."""

import json
import zlib
from pathlib import Path

from lm.errors import ConfigError

MANIFEST = "manifest.json"
FORMAT = 1


class CorruptCheckpoint(ConfigError):
    """A file of a committed step is missing or differs from its manifest."""


def write(folder: Path, body: dict, but: tuple[str, ...]) -> None:
    """Write `body` and the sums of all files except the names in `but`."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    names = (p.relative_to(folder).as_posix() for p in files)
    sums = {name: checksum(folder / name) for name in names if name not in but}
    manifest = {**body, "format": FORMAT, "files": sums}
    manifest["crc32"] = own_checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1))


def verify(folder: Path) -> dict:
    """The manifest, after every file was read against it.

    Raises CorruptCheckpoint, or ValueError for the format of another version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest.pop("crc32") != own_checksum(manifest):
            raise CorruptCheckpoint(f"{folder} is damaged: {MANIFEST} was changed")
        for name, wrote in manifest["files"].items():
            if (found := checksum(folder / name)) != wrote:
                raise CorruptCheckpoint(
                    f"{folder} is damaged: [bytes, crc32] of {name} are {found}, "
                    f"were {wrote}"
                )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{folder} is damaged: {error!r}") from error
    if (found := manifest["format"]) != FORMAT:
        raise ValueError(f"{folder} has format {found}; this version reads {FORMAT}")
    return manifest


def checksum(path: Path) -> list[int]:
    """[bytes, CRC-32] of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def own_checksum(manifest: dict) -> int:
    """CRC-32 of the manifest itself, without its own entry."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
