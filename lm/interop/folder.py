"""A folder in Hugging Face's layout: config.json and safetensors, read and written.

No code of a folder is ever run: pickled weights are refused, and what an index names
must lie beside it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.errors import ConfigError

SINGLE = "model.safetensors"
# Of a name on the hub.
WANTED = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model", "*.jinja"]
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Weights(NamedTuple):
    """shapes: {name: shape} of all tensors; read: name -> float32 array."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def located(source: str | Path) -> Path:
    """The folder of `source`: a folder, or a name on the hub, from its cache or it.

    ConfigError if there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(str(source), allow_patterns=WANTED))
    except HFValidationError as error:
        raise ConfigError(f"{str(source)!r}: no such folder") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"{str(source)!r} is no folder, nor in the hub's cache, and could not be "
            f"fetched: {str(error).splitlines()[0]}"
        ) from error


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ConfigError if it is none."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds a {type(found).__name__}, not an object")
    return found


def weights(folder: Path) -> Weights:
    """The tensors of a folder, or of one file; opens each, and reads no tensor.

    ConfigError for pickled weights, for a file that an index names and is not there or
    lies elsewhere, for a header that is not one, and for a file cut short.
    """
    from safetensors import SafetensorError, safe_open

    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _files(folder):
        try:
            with safe_open(path, framework="flax") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    where[name] = path
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{path} is no whole safetensors file: {error}"
            ) from error

    def read(name: str) -> np.ndarray:
        # As arrays of jax, since NumPy has no bfloat16, but on no accelerator.
        host = jax.default_device(jax.local_devices(backend="cpu")[0])
        with host, safe_open(where[name], framework="flax") as file:
            return np.asarray(file.get_tensor(name)).astype(np.float32)

    return Weights(shapes, read)


def _files(folder: Path) -> list[Path]:
    if folder.is_file() and not any(map(folder.match, PICKLES)):
        return [folder]
    if (folder / INDEX).is_file():
        names = sorted(set(json_of(folder / INDEX).get("weight_map", {}).values()))
        outside = [n for n in names if not isinstance(n, str) or Path(n).name != n]
        if outside:
            raise ConfigError(
                f"{folder / INDEX} names {', '.join(map(repr, outside))}: a file "
                "must lie beside its index"
            )
        missing = [n for n in names if not (folder / n).is_file()]
        if missing or not names:
            what = ", ".join(missing) or "any file"
            raise ConfigError(f"{folder} lacks {what} that its index should name")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = [folder] if folder.is_file() else folder.iterdir()
    pickled = sorted(p.name for p in found if any(map(p.match, PICKLES)))
    if pickled:
        raise ConfigError(
            f"{folder} has its weights as {pickled[0]}, a pickle, which may hold code "
            "and is never opened: convert it with transformers' save_pretrained"
        )
    raise ConfigError(f"{folder} has no {SINGLE} nor {INDEX}")


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int,
) -> None:
    """config.json and the tensors, in files of about `shard_bytes` with their index.

    `folder` must not hold a model yet, so that no file of another is left among these.
    """
    from safetensors.numpy import save_file

    taken = [n for n in ("config.json", SINGLE, INDEX) if (folder / n).exists()]
    if taken:
        raise ConfigError(f"{folder} holds a {taken[0]} already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, np.ndarray]] = []
    total, room = 0, 0
    for name, array in tensors:
        if not shards or array.nbytes > room:
            shards.append({})
            room = shard_bytes
        # The writer takes memory as it lies, whatever the strides say.
        shards[-1][name] = np.ascontiguousarray(array)
        room -= array.nbytes
        total += array.nbytes
    where = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        file = SINGLE if len(shards) == 1 else file
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
