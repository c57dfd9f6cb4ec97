"""What the keys of a text rule out among one another."""

import glob
import math
from pathlib import Path
from typing import Any

from lm.config.schema import PART
from lm.errors import ConfigError, choose

# Corpora that read data.path, each with an example.
PATHS = {
    "text": "'books/*.txt'",
    "jsonl": "'pages/*.jsonl.gz'",
    "parquet": "'pages/*.parquet'",
    "tfds": "wiki40b/en",
}


def check_data(values: dict[str, Any]) -> None:
    """Raise for a corpus without its files, keys of another corpus, a bad split.

    values: of all keys, which are dotted.
    """
    from lm.data.corpora import CORPORA, UNITS

    _check_source("data.", values)
    names = sorted({k.split(".")[2] for k in values if k.startswith(PART)})
    if (values["data.corpus"] == "mixture") != bool(names):
        raise ConfigError(
            f"data.corpus={values['data.corpus']!r} with data.mixture of "
            f"{', '.join(names) or 'nothing'}: a mixture is data.corpus=mixture and, "
            "for example, data.mixture.kjv.weight=0.7 data.mixture.pystdlib.weight=0.3"
        )
    for name in names:
        prefix = f"{PART}{name}."
        weight = values[f"{prefix}weight"]
        if not 0 < weight < math.inf:
            raise ConfigError(f"{prefix}weight={weight} must be positive and finite")
        corpora = [corpus for corpus in CORPORA if corpus != "mixture"]
        choose(f"{prefix}corpus", values[f"{prefix}corpus"], corpora)
        choose(f"{prefix}document", values[f"{prefix}document"], UNITS)
        _check_source(prefix, values)
    split = values["data.split"]
    tokenizer, file = values["data.tokenizer"], values["data.tokenizer_path"]
    if (tokenizer == "file") != bool(file):
        raise ConfigError(
            f"data.tokenizer={tokenizer!r} and data.tokenizer_path={file!r}: 'file' "
            "needs the path of a tokenizer.json or a SentencePiece .model, and no "
            "other tokenizer reads one"
        )
    good = len(split) == 3 and min(split) > 0 and abs(sum(split) - 1) < 1e-6
    if not good:
        raise ConfigError(
            f"data.split={split!r} must be three positive fractions with sum 1: "
            "train, validation, test"
        )


def _check_source(prefix: str, values: dict[str, Any]) -> None:
    """Raise for a corpus without its files, or with those of another."""
    corpus, path = values[f"{prefix}corpus"], values[f"{prefix}path"]
    if path and corpus not in PATHS:
        raise ConfigError(
            f"{prefix}path={path!r} is not read with {prefix}corpus={corpus!r}; add "
            f"--config.{prefix}corpus={', or '.join(PATHS)}"
        )
    if corpus in PATHS and not path:
        raise ConfigError(
            f"{prefix}corpus={corpus!r} needs {prefix}path, for example "
            f"--config.{prefix}path={PATHS[corpus]}"
        )
    if corpus in PATHS and corpus != "tfds":
        literal = Path(path).expanduser()
        found = [literal, *map(Path, glob.glob(str(literal), recursive=True))]
        if not any(file.is_file() for file in found):
            raise ConfigError(f"{prefix}path={path!r} is no file, and matches none")
