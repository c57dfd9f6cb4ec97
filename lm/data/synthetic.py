"""Synthetic tasks as data: batches of training, validation and tests.

A test is the task with some fields changed; `SAME` is the task itself on new rows. What
a longer test scores is only what no row of training reached.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lm.data.encoded import digest
from lm.data.loader import Batch
from lm.data.tasks import TASKS, Examples, Task
from lm.data.tasks.base import Draws, Text
from lm.errors import ConfigError
from lm.sequence import Sequence

SAME = "same"
VERSION = 1  # raise it when the same keys would give other rows
STREAMS = {"train": 0, "validation": 1, "test": 2}


def tests(fields: Mapping[str, Any]) -> dict[str, Task]:
    """{name: task} of config.data.task, the first of which is SAME: training's own.

    ConfigError names the field that cannot be.
    """
    own = {k: v for k, v in fields.items() if k not in ("kind", "tests")}
    task = TASKS[fields["kind"]](**own)
    found = {SAME: task}
    blank = {
        field.name: field.default
        for field in dataclasses.fields(task)
        if field.name in task.training_only
    }
    for name, changes in fields.get("tests", {}).items():
        found[name] = dataclasses.replace(task, **blank | dict(changes))
    for name, test in found.items():
        prefix = "data.task." if name == SAME else f"data.task.tests.{name}."
        values = dataclasses.asdict(test)
        for field, names in test.choices.items():
            if values[field] not in names:
                raise ConfigError(
                    f"{prefix}{field}={values[field]!r}: valid are {', '.join(names)}"
                )
        for field, value in values.items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{prefix}{field}={value} must be at least 1")
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise ConfigError(f"{prefix}{field}={value} must be 0 or more, finite")
        if wrong := test.contradiction():
            field, words = wrong
            raise ConfigError(f"{prefix}{field}={values[field]!r} {words}")
        if not task.reads_text and test.vocab_size != task.vocab_size:
            raise ConfigError(
                f"{prefix[:-1]} has {test.vocab_size} tokens in its vocabulary and "
                f"training {task.vocab_size}: a test has training's"
            )
    return found


class Synthetic:
    """What `lm.data.prepare` gives for a task in the place of a corpus.

    Attributes:
      tests: name -> task; the first is SAME.
      corpus: of a task that reads text, else None.
      vocab_size, fingerprint, manifest: as a corpus has them.
    """

    def __init__(self, fields: Mapping[str, Any], corpus=None):
        """`corpus`: of a task that reads text."""
        self.tests = tests(fields)
        self.task = self.tests[SAME]
        self.corpus = corpus
        self.vocab_size: int = (corpus or self.task).vocab_size
        if corpus:
            self.vocab_size += self.task.marks
            edges = edges_of(corpus)
            self._text = lambda split: Text(
                corpus.tokens(split), corpus.vocab_size, *edges
            )
        known = {name: dataclasses.asdict(test) for name, test in self.tests.items()}
        text = corpus.fingerprint if corpus else None
        self.fingerprint: str = digest(
            version=VERSION, kind=fields["kind"], tests=known, text=text
        )
        self.manifest: dict = {
            "source": f"task {fields['kind']}",
            "version": VERSION,
            "task": known,
            "vocab_size": self.vocab_size,
            "splits": {},
            "fingerprint": self.fingerprint,
        } | ({"text": corpus.manifest} if corpus else {})

    def facts(self) -> dict:
        """What a comparison's plan says of the task; see docs/architecture.md."""
        size = self.task.size
        of = lambda pair: (pair[0] != SAME, getattr(pair[1], size))
        tests = dict(sorted(self.tests.items(), key=of))
        return {
            "kind": self.manifest["source"].removeprefix("task "),
            "size": size,
            "tests": {name: getattr(test, size) for name, test in tests.items()},
            "chance": {name: test.chance for name, test in tests.items()},
        }

    def rows(self, name: str, seed: tuple[int, ...], index_B) -> Examples:
        """Rows of a test by (seed, index); seed[0] is the split's of STREAMS."""
        text = self._text(list(STREAMS)[seed[0]]) if self.corpus else None
        return self.tests[name].make(Draws(seed, index_B), text)

    def held_out(self, split: str, name: str, rows: int) -> Iterator[Batch]:
        """All rows of a test, in batches of one shape, padded at the end."""
        task, trained = self.tests[name], self.task.context
        seed = (STREAMS[split], zlib.crc32(name.encode()))
        for first in range(0, task.held_out, rows):
            index_B = np.arange(first, first + rows)
            examples = self.rows(name, seed, index_B)
            if task.running and task.context > trained:
                examples.scored[:, :trained] = False
            yield batch(examples, index_B < task.held_out)


def edges_of(corpus) -> tuple[np.ndarray, np.ndarray]:
    """(whether a token's first byte is no part of a word, its last), bool [V]."""
    texts = [corpus.decode([i]) for i in range(corpus.vocab_size)]
    other = lambda raw: not raw or (raw[0] < 128 and not chr(raw[0]).isalnum())
    first = [other(raw[:1]) for raw in texts]
    return np.array(first), np.array([other(raw[-1:]) for raw in texts])


class TaskBatches:
    """`self(step)`: row r is example step * rows + r of (seed), pure as TrainBatches.

    With task.examples so many distinct rows are seen in turn; else each is new, and an
    epoch has no end: `steps_per_epoch` is None.
    """

    def __init__(self, data: Synthetic, rows: int, seed: int):
        self._data, self._rows, self._seed = data, rows, seed
        examples = data.task.examples
        self.steps_per_epoch: float | None = examples and examples / rows

    def __call__(self, step: int) -> Batch:
        index_B = step * self._rows + np.arange(self._rows)
        if self._data.task.examples:
            index_B %= self._data.task.examples
        seed = (STREAMS["train"], self._seed)
        return batch(self._data.rows(SAME, seed, index_B), np.ones(self._rows, bool))


def batch(examples: Examples, real_B) -> Batch:
    """Rows that each start afresh; those that are not real are padding."""
    B, T = examples.tokens.shape
    valid_BxT = np.repeat(np.asarray(real_B)[:, None], T, 1)
    place_BxT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)) * valid_BxT
    seq = Sequence(
        segment_ids=valid_BxT.astype(np.int32),
        positions=place_BxT,
        reset=(np.arange(T) == 0) & valid_BxT,
        valid=valid_BxT,
    )
    weights_BxT = (examples.scored & valid_BxT).astype(np.float32)
    tokens_BxT, targets_BxT = examples.tokens, examples.targets
    return Batch(tokens_BxT * valid_BxT, targets_BxT * valid_BxT, weights_BxT, seq)
