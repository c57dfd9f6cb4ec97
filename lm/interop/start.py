"""A pretrained model as the start of a run: its config, and its parameters."""

from pathlib import Path
from typing import Any

import jax

from lm import config as configs
from lm.data.tokenizers import from_file
from lm.errors import ConfigError
from lm.interop import folder
from lm.interop.families import plain
from lm.interop.family import differing
from lm.interop.pretrained import fields_of, from_pretrained
from lm.interop.tokenizer import PIECES
from lm.parameters import paths

# Of these a run may have fewer rows: of tokens that its tokenizer has not, and of
# positions beyond its context.
ROWS = ("embedding", "head_kernel", "head_bias", "positions_embedding")


def config_of(source: str | Path) -> configs.ConfigDict:
    """A config that trains the model of a folder, or of a name on the hub, further: its
    architecture and tokenizer, all else as in configs/base.py.

    Raises:
      ConfigError: as of from_pretrained, and a folder without a tokenizer in one file.
    """
    path, family, values, problems = fields_of(source)
    if problems:
        raise ConfigError(f"{path}: {'; '.join(problems)}")
    file = _tokenizer_file(path)
    config = family.config(values)
    config.data.update(tokenizer="file", tokenizer_path=str(file))
    config.train.init_from = str(path)
    return config


def _tokenizer_file(path: Path) -> Path:
    """The first that a corpus can be read by: Llama 2's tokenizer.json changes texts,
    and the SentencePiece model beside it need not."""
    names = ("tokenizer.json", *PIECES)
    files = [path / name for name in names if (path / name).is_file()]
    if not files:
        raise ConfigError(
            f"{path} has neither {' nor '.join(names[:2])}: write its tokenizer in one "
            "file, as save_pretrained of transformers does"
        )
    return next(filter(_leaves_texts, files[:-1]), files[-1])


def _leaves_texts(file: Path) -> bool:
    """Whether a corpus can be read by a tokenizer, which then says nothing against."""
    try:
        from_file(configs.ConfigDict({"tokenizer_path": str(file)}), file.parent, None)
    except ConfigError:
        return False
    return True


def is_pretrained(source: str | Path) -> bool:
    """Whether a folder is in Hugging Face's layout; a run's has another config.json."""
    path = Path(source) / "config.json"
    return path.is_file() and "model_type" in folder.json_of(path)


def initial(source: str | Path, config, abstract: Any):
    """Parameters of a pretrained model for a run of `config`.

    Args:
      abstract: the run's parameters, as shapes.

    Raises:
      ConfigError: another model than the config's, by the keys in which they differ, or
        one with fewer tokens or positions.
    """
    found = from_pretrained(source)
    flat = (plain(configs.flatten(c)) for c in (config, found.config))
    if keys := differing(*flat):
        raise ConfigError(
            f"train.init_from={str(source)!r} is of another model: {', '.join(keys)} "
            f"differ; train it with --config=configs/pretrained.py:{source}"
        )

    def cut(path: str, leaf, wanted):
        fewer = path in ROWS and leaf.shape[1:] == wanted.shape[1:]
        if leaf.shape != wanted.shape and not (fewer and len(leaf) > len(wanted)):
            raise ConfigError(
                f"train.init_from={str(source)!r}: {path} is {list(leaf.shape)}, the "
                f"run's {list(wanted.shape)}: lower data.context, or take its tokenizer"
            )
        return leaf[: len(wanted)] if fewer else leaf

    return jax.tree.map(cut, paths(abstract), found.params, abstract)
