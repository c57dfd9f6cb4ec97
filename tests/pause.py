"""`python -m tests.pause POINT ARGUMENTS` is run.py that tells when it is at a point.

It prints "at POINT", and "past POINT" when what happens there has ended.
"""

import sys
import time

import jax

from lm import cli, evaluate, generate, train
from lm.data import TrainBatches


def tell(owner, name: str, point: str, when=lambda *a: True, sleep: float = 0) -> None:
    """Wraps a function: it prints the point, may sleep, and does what it did."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        if not when(*args):
            return original(*args, **kwargs)
        print(f"at {point}", flush=True)
        time.sleep(sleep)
        value = original(*args, **kwargs)
        print(f"past {point}", flush=True)
        return value

    setattr(owner, name, call)


def main(point: str, arguments: list[str]) -> int:
    name, _, step = point.partition("=")
    at_step = lambda batches, at: at == int(step)
    {
        "data": lambda: tell(train, "prepare", point, sleep=60),
        "compile": lambda: tell(jax.stages.Lowered, "compile", point),
        "step": lambda: tell(TrainBatches, "__call__", point, at_step),
        "stuck": lambda: tell(TrainBatches, "__call__", point, at_step, 60),
        "validation": lambda: tell(evaluate, "window_batches", point, sleep=60),
        "sample": lambda: tell(generate, "sample", point, sleep=60),
        "evaluation": lambda: tell(evaluate, "stream_batches", point),
    }[name]()
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
