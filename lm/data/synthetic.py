"""Synthetic tasks as data: batches of training, validation and tests.

A test is the task with some fields changed; `SAME` is the task itself on new rows. What
a longer test scores is only what no row of training reached.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from lm.data.encoded import digest
from lm.data.loader import Batch
from lm.data.pairs import BETWEEN, END
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
            self._facts = (corpus.vocab_size, *edges_of(corpus), *marks_of(corpus))
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
        if self.task.reads_pairs:
            self.manifest["pairs"] = self._pairs()

    def _pairs(self) -> dict:
        """{split: {"documents", "fitting"}}, none of them too few."""
        if self.corpus.unknown is not None or None in self._facts[-2:]:
            raise ConfigError(
                "data.tokenizer: of pairs every character must be a token's, and the "
                "marks between source and target tokens by themselves: take bytes, bpe"
            )
        self.task.check(self.text("train"))
        counts = {}
        for split in STREAMS:
            text = self.text(split)
            fitting = self.task.rows_of(text)
            counts[split] = {"documents": len(text.starts_D), "fitting": fitting}
            for test in self.tests.values():
                need = 2 if split == "train" else max(test.held_out, 2)
                if (found := test.rows_of(text)) < need:
                    raise ConfigError(
                        f"the {split} split has {found} pairs of at most data.task."
                        f"length={test.length} tokens, and {need} are needed for "
                        f"data.task.held_out={test.held_out}: change one of them, or "
                        "data.split"
                    )
        return counts

    def text(self, split: str) -> Text | None:
        """What a task that reads text reads of a split."""
        if self.corpus is None:
            return None
        starts_D = self.corpus.documents(split)
        return Text(self.corpus.tokens(split), starts_D, *self._facts)

    def facts(self) -> dict:
        """What a comparison's plan says of the task; see docs/architecture.md."""
        size = self.task.size
        of = lambda pair: (pair[0] != SAME, getattr(pair[1], size))
        tests = dict(sorted(self.tests.items(), key=of))
        return {
            "kind": self.manifest["source"].removeprefix("task "),
            "size": size,
            "tests": {name: getattr(test, size) for name, test in tests.items()},
            "chance": {
                name: test.chance
                for name, test in tests.items()
                if test.chance is not None
            },
            "figures": list(self.task.figures),
        }

    def rows(self, name: str, seed: tuple[int, ...], index_B) -> Examples:
        """Rows of a test by (seed, index); seed[0] is the split's of STREAMS."""
        text = self.text(list(STREAMS)[seed[0]])
        return self.tests[name].make(Draws(seed, index_B), text)

    def held_out(self, split: str, name: str, rows: int) -> Iterator[Batch]:
        """All rows of a test, in batches of one shape, padded at the end."""
        task, trained = self.tests[name], self.task.context
        of_all = SAME if task.reads_pairs else name
        seed = (STREAMS[split], zlib.crc32(of_all.encode()))
        for first in range(0, task.held_out, rows):
            index_B = np.arange(first, first + rows)
            examples = self.rows(name, seed, index_B)
            if task.running and task.context > trained:
                examples.scored[:, :trained] = False
            yield batch(examples, index_B < task.held_out)

    def held_out_pairs(self, split: str, name: str) -> list["Pair"]:
        """The rows of a test of pairs, in the order of `held_out`."""
        (batch,) = self.held_out(split, name, self.tests[name].held_out)
        return list(self._texts(batch))

    def training_pairs(self) -> tuple[list[str], list[str]]:
        """(sources, targets) of training, without those at the edges of its split."""
        whole = self.corpus.decode(self.corpus.tokens("train")).decode(errors="replace")
        lines = whole.split(END)
        lines = lines[1:-1] if lines[-1] else lines[1:-2]
        pairs = [line.split(BETWEEN) for line in lines]
        return [source for source, _ in pairs], [target for _, target in pairs]

    def _texts(self, batch: Batch) -> Iterator["Pair"]:
        read = lambda ids: self.corpus.decode(ids).decode(errors="replace")
        for tokens_T, targets_T, weights_T in zip(*batch[:3], strict=True):
            (scored,) = np.nonzero(weights_T)
            ids = tokens_T[: scored[0] + 1]
            yield Pair(ids, read(ids[:-1]), read(targets_T[scored[:-1]]))


class Pair(NamedTuple):
    """ids: of the source and its mark; source, reference: texts without marks."""

    ids: np.ndarray
    source: str
    reference: str


def edges_of(corpus) -> tuple[np.ndarray, np.ndarray]:
    """(whether a token's first byte is no part of a word, its last), bool [V]."""
    texts = [corpus.decode([i]) for i in range(corpus.vocab_size)]
    other = lambda raw: not raw or (raw[0] < 128 and not chr(raw[0]).isalnum())
    first = [other(raw[:1]) for raw in texts]
    return np.array(first), np.array([other(raw[-1:]) for raw in texts])


def marks_of(corpus) -> list[int | None]:
    """The tokens that are BETWEEN and END by themselves, None where there is none."""
    ids = [corpus.encode(mark).tolist() for mark in (BETWEEN, END)]
    return [found[0] if len(found) == 1 else None for found in ids]


class TaskBatches:
    """`self(step)`: row r is example step * rows + r of (seed), pure as TrainBatches.

    With task.examples so many distinct rows are seen in turn, of pairs all in an order
    drawn each epoch; else each is new, and `steps_per_epoch` is None.
    """

    def __init__(self, data: Synthetic, rows: int, seed: int):
        self._data, self._rows, self._seed = data, rows, seed
        examples = data.task.rows_of(data.text("train"))
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
