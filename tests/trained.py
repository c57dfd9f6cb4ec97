"""A short run over a repetitive text, in a workdir of its own."""

from pathlib import Path

from lm import config as configs

TEXT = b"the quick brown fox jumps over the lazy dog; a stitch in time saves nine. "
MODEL = {"width": 16, "depth": 2, "pattern": ("lstm",), "mlp_width": 24}
DATA = {"corpus": "text", "context": 16, "tokenizer": "bytes"}


def settings(folder: Path, raw: bytes = 81 * TEXT, **changes):
    """The resolved config of a run over `raw`; `changes` are sections' values.

    The splits of 81 repeats start at other letters, so that none is another's text.
    """
    (folder / "text.txt").write_bytes(raw)
    sections = {
        "data": DATA | {"path": str(folder / "text.txt")},
        "model": MODEL,
        "optim": {"lr": 2e-2},
        "train": {"duration": "60 steps", "batch_tokens": 64},
        "eval": {"every": "50%", "rows": 4, "stream_chunk": 16},
        "run": {"sample_tokens": 8, "prompt": "the "},
    }
    sections["data"]["cache"] = str(folder / "cache")
    flat = configs.flatten(sections)
    for name, section in changes.items():
        flat |= configs.flatten({name: section})
    return configs.resolve(configs.load("configs/base.py", flat))
