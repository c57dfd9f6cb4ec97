"""An XLA trace of some updates of a run, for xprof or Perfetto to show."""

from pathlib import Path

import jax

from lm.errors import ConfigError
from lm.progress import Progress

NO_STEPS = range(0)


def check_steps(steps: range, end: int) -> None:
    """Raise where a run of `end` updates never comes to the last one of `steps`."""
    if steps.stop > end:
        raise ConfigError(
            f"--profile={steps.start}:{steps.stop} goes beyond the end of training: "
            f"train.duration is {end} updates, so take at most {max(end - 10, 0)}:{end}"
        )


class Trace:
    """Traces the updates from step `steps.start` to `steps.stop` into a folder.

    Compilation is not in it, nor are evaluations and saves at its ends. The time it
    takes to start and to write it is not training. A run that goes on
    inside `steps` traces those that are left, one behind them none: the same command
    may be run again.
    """

    def __init__(self, steps: range, folder: Path):
        self._steps, self._folder = steps, folder
        self._on = False

    def before(self, step: int, state, progress: Progress) -> None:
        """An update of `state`, after `step` others, is next."""
        if step in self._steps and not self._on:
            with progress.apart():
                jax.block_until_ready(state)
                jax.profiler.start_trace(self._folder)
                self._on = True
        if self._on:
            self._update = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._update.__enter__()

    def after(self, step: int, state, progress: Progress) -> None:
        """That was the update to `step`."""
        if self._on:
            self._update.__exit__(None, None, None)
        if self._on and step not in self._steps:
            with progress.apart():
                jax.block_until_ready(state)
                self.stop()

    def stop(self) -> None:
        """Writes what there is, if a trace is on."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            print(f"\ntrace of updates in {self._folder}", flush=True)
