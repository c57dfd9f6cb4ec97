"""A member of a population: what its run holds open, and what it leaves behind."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import jax

from lm import optim, train
from lm.card import Card
from lm.checkpoint import Checkpoints
from lm.claim import claim, same_data
from lm.config import durations
from lm.data import train_batches
from lm.program import program
from lm.progress import Progress
from lm.record import Record
from lm.rows import Rows
from lm.workdir import workdir_lock, write_json


class Share:
    """What a member's rows know of the clock of all P: a P-th; it shows nothing."""

    def __init__(self, clock: Progress, P: int):
        self._clock, self._P = clock, P

    def seconds(self) -> float:
        return self._clock.seconds() / self._P

    def trained(self, step: int, loss: float) -> None:
        pass

    def validated(self, values: dict) -> None:
        pass


class Member:
    """One run; in a `with` block it has its workdir to itself. `result`: once ended."""

    def __init__(self, config, workdir: Path, corpus):
        self.config, self.workdir, self.corpus = config, workdir, corpus
        self.result_path = workdir / "result.json"
        self.result: dict | None = None
        self.batches = train_batches(corpus, config)
        self.durations = durations(config, self.batches.steps_per_epoch)
        self.program = program(config, corpus.vocab_size)
        self.hyper = optim.hyper(config, *self.durations[:4])

    def __enter__(self) -> "Member":
        with ExitStack() as stack:
            stack.enter_context(workdir_lock(self.workdir))
            claim(self.config, self.workdir)
            self.card = stack.enter_context(Card(self.config, self.workdir))
            self._record = stack.enter_context(Record(self.config, self.workdir))
            folder, keep = self.workdir / "checkpoints", self.config.run.keep
            self.checkpoints = stack.enter_context(closing(Checkpoints(folder, keep)))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)

    def restore(self) -> tuple:
        """(step, TrainState on the host) to go on from."""
        newest = self.checkpoints.latest() or 0
        self._manifest = same_data(self.config, self.corpus, self.workdir, newest)
        self.meta = train.new_meta(self.config, self.corpus)
        run = (self.config, self.workdir, self.program, self.checkpoints)
        return jax.device_get(train.start(*run, self.meta, self._manifest))

    def start(self, step: int, clock: "Share") -> None:
        self.card.start(step, self._manifest)
        path, tokens = self.workdir / "metrics.jsonl", self.config.train.batch_tokens
        self.rows = Rows(path, step, self.durations, tokens, clock, self._record)
        self._clock = clock

    def save(self, write: Callable, step: int, state) -> None:
        write(step, state, self.meta | {"seconds": self._clock.seconds()})

    def validate(self, step: int, state, most: int | None = None) -> dict:
        """As a run's: {protocol: EVAL}, a sample, and then the row, for good."""
        run = (self.config, self.program.model, state, self.corpus)
        results = train.judge(*run, "validation", most)
        train.sample(*run, self.workdir, step)
        self.rows.validation(step, next(iter(results.values())))
        return results

    def test(self, state) -> dict:
        run = (self.config, self.program.model, state, self.corpus)
        return train.judge(*run, "test")

    def end(self, outcome: dict, costs: dict, speed: dict) -> None:
        """Writes result.json and leaves the workdir."""
        facts = (self.config, self.meta, self._manifest, costs, speed)
        result = train.whole(outcome, *facts)
        self.checkpoints.wait()
        write_json(self.result_path, result)
        self.card.end(result)
        self._open.close()
        self.result = result
