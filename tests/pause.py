"""`python -m tests.pause POINT ARGUMENTS` is run.py that tells when it is at a point.

It prints "at POINT", and "past POINT" when what happens there has ended.
"""

import sys
import time

import jax

from lm import cli, evaluate, generate, train
from lm.data import TRAIN_BATCHES, TaskBatches


def tell(owner, name: str, point: str, sleep: float = 0) -> None:
    """Wraps a function: it prints the point, sleeps, and does what it did."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        print(f"at {point}", flush=True)
        time.sleep(sleep)
        value = original(*args, **kwargs)
        print(f"past {point}", flush=True)
        return value

    setattr(owner, name, call)


def slow_evaluation(point: str) -> None:
    """The stream protocol, a twentieth of a second a batch."""
    original = evaluate.stream_batches

    def batches(*args):
        print(f"at {point}", flush=True)
        for batch in original(*args):
            time.sleep(0.05)
            yield batch
        print(f"past {point}", flush=True)

    evaluate.stream_batches = batches


def slow_steps(point: str, first: int, sleep: float) -> None:
    """Batches from step `first` on come `sleep` seconds late."""

    def slow(original):
        def call(self, step):
            if step == first:
                print(f"at {point}", flush=True)
            time.sleep(sleep if step >= first else 0)
            return original(self, step)

        return call

    for batches in (*TRAIN_BATCHES.values(), TaskBatches):
        batches.__call__ = slow(batches.__call__)


def main(point: str, arguments: list[str]) -> int:
    name, _, step = point.partition("=")
    {
        "data": lambda: tell(train, "prepare", point, sleep=60),
        "compile": lambda: tell(jax.stages.Lowered, "compile", point),
        "step": lambda: slow_steps(point, int(step), 0.02),
        "stuck": lambda: slow_steps(point, int(step), 60),
        "validation": lambda: tell(evaluate, "window_batches", point, sleep=60),
        "sample": lambda: tell(generate, "sample", point, sleep=60),
        "evaluation": lambda: slow_evaluation(point),
    }[name]()
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
