"""Splits: contiguous parts of a corpus, stated in the bytes of its text."""

from collections.abc import Callable

import numpy as np

from lm.errors import ConfigError

SPLITS = ("train", "validation", "test")
BLOCK = 1 << 20  # tokens whose sizes are held at once


def bounds(count: int, data) -> dict[str, list[int]]:
    """{split: [start, stop]} of `count` bytes, after the caps."""
    edges = np.round(count * np.cumsum([0.0, *data.split])).astype(int)
    found = {}
    for i, split in enumerate(SPLITS):
        start, stop = int(edges[i]), int(edges[i + 1])
        cap = getattr(data, _cap_key(split))
        found[split] = [start, stop if cap is None else min(stop, start + cap)]
    return found


def inside(spans: dict, count: int, sizes: Callable) -> dict[str, list[int]]:
    """{split: [start, stop]} of the tokens that lie whole within spans of bytes.

    Args:
      count: of all tokens; sizes: (start, stop) -> bytes of each of them.
    """
    found = {split: [0, 0] for split in spans}
    offset = 0
    for first in range(0, count, BLOCK):
        ends_N = offset + np.cumsum(sizes(first, min(first + BLOCK, count)), dtype=int)
        starts_N = np.concatenate([[offset], ends_N[:-1]])
        for split, (start, stop) in spans.items():
            found[split][0] += int(np.searchsorted(starts_N, start, "left"))
            found[split][1] += int(np.searchsorted(ends_N, stop, "right"))
        offset = int(ends_N[-1])
    return {split: [start, max(start, stop)] for split, (start, stop) in found.items()}


def check_windows(found: dict, count: int, data) -> None:
    """ConfigError if a split holds no window."""
    for split, (start, stop) in found.items():
        if stop - start < data.context + 1:
            cap_key = _cap_key(split)
            raise ConfigError(
                f"the {split} split has {stop - start} tokens of the corpus's "
                f"{count}, and data.context={data.context} needs at least "
                f"{data.context + 1}: lower data.context, change data.split="
                f"{tuple(data.split)} or data.{cap_key}={getattr(data, cap_key)}, or "
                "give a larger file"
            )


def _cap_key(split: str) -> str:
    return "train_bytes" if split == "train" else "eval_bytes"
