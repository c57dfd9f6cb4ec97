"""What the keys of a text rule out among one another."""

import glob
import math
from pathlib import Path
from typing import Any

from lm.config.schema import PART, TASK, TESTS
from lm.errors import ConfigError, choose

# Corpora that read data.path, each with an example.
PATHS = {
    "text": "'books/*.txt'",
    "jsonl": "'pages/*.jsonl.gz'",
    "parquet": "'pages/*.parquet'",
    "tfds": "wiki40b/en",
}
DURATIONS = (
    "train.duration",
    "optim.warmup",
    "optim.decay",
    "train.polyak_start",
    "eval.every",
    "run.checkpoint_every",
    "run.log_every",
)


def check_data(values: dict[str, Any]) -> None:
    """Raise for a corpus without its files, keys of another corpus, a bad split.

    values: of all keys, which are dotted.
    """
    from lm.data.corpora import CORPORA, UNITS

    _check_task(values)
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


def _check_task(values: dict[str, Any]) -> None:
    """Raise for a task that cannot be, or that batches and durations do not suit."""
    from lm.data import synthetic

    fields: dict[str, Any] = {"tests": {}}
    for key, value in values.items():
        if key.startswith(TESTS):
            _, _, _, name, field = key.split(".")
            fields["tests"].setdefault(name, {})[field] = value
        elif key.startswith(TASK):
            fields[key.removeprefix(TASK)] = value
    if "kind" not in fields:
        return
    if synthetic.SAME in fields["tests"]:
        raise ConfigError(
            f"{TESTS}{synthetic.SAME} is training's own: give the test another name"
        )
    task = synthetic.tests(fields)[synthetic.SAME]
    context, rows = values["data.context"], values["train.batch_tokens"]
    if context != task.context:
        rows = max(rows // context, 1)
        raise ConfigError(
            f"data.context={context}, and a row of {TASK}kind={fields['kind']!r} has "
            f"{task.context} tokens: add --config.data.context={task.context} "
            f"--config.train.batch_tokens={rows * task.context}"
        )
    if values["train.state"] == "carry":
        raise ConfigError(
            f"train.state='carry' goes on with a text, and the rows of {TASK}kind="
            f"{fields['kind']!r} have nothing to do with each other: take reset"
        )
    if task.reads_pairs and values["data.max_document"]:
        raise ConfigError(
            f"data.max_document={values['data.max_document']} cuts pairs in two: add "
            "--config.data.max_document=None"
        )
    endless = task.examples is None and not task.reads_pairs
    for key in DURATIONS:
        if "epoch" in values[key] and endless:
            raise ConfigError(
                f"{key}={values[key]!r}: rows of {TASK}kind={fields['kind']!r} are "
                f"new at every step, so there is no epoch; count steps, or set "
                f"{TASK}examples"
            )


def _check_pairs(prefix: str, values: dict[str, Any]) -> None:
    """Raise for rows that are to be pairs in two ways, in half of one, or of a text."""
    from lm.data.pairs import SETS

    given = {key: values[f"{prefix}{key}"] for key in ("source", "target", "dialogue")}
    source, target, dialogue = (value is not None for value in given.values())
    told = ", ".join(f"{prefix}{k}={v!r}" for k, v in given.items() if v is not None)
    if source != target or (source and dialogue):
        raise ConfigError(
            f"{told}: pairs are made by {prefix}source and {prefix}target, or by "
            f"{prefix}dialogue alone"
        )
    if told and values[f"{prefix}corpus"] not in SETS:
        raise ConfigError(
            f"{told}: only rows of {', '.join(SETS)} are made pairs, not those of "
            f"{prefix}corpus={values[f'{prefix}corpus']!r}"
        )


def _check_source(prefix: str, values: dict[str, Any]) -> None:
    """Raise for a corpus without its files, or with those of another."""
    _check_pairs(prefix, values)
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
