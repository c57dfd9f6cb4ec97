"""Signals that end a run early: from any phase, save what is there and leave.

The handler sets a flag and raises `Preempted`: a flag alone waits out a compilation of
half a minute, and an exception alone can be swallowed inside a garbage collection.

    with Interrupts() as interrupts:
        try:
            step_fn = compile()                # interruptible; nothing to lose yet
            while step < steps:
                interrupts.check()             # a flag whose exception was swallowed
                batch = next(batches)
                with interrupts.shield():      # never between the donation of the old
                    state = step_fn(state, batch)  # state and the name of the new one
                    step += 1
                ...
        except Preempted:
            checkpoints.ensure(step, state, meta)
            raise                              # leaving the `with` exits with code 75
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: run the same command again to go on
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REPEAT_SECONDS = 1.0  # `timeout` and Slurm may deliver one request twice
WAKE, WAKE_SECONDS = signal.SIGURG, 0.5  # ignored by default; nothing else here uses it


class Preempted(BaseException):
    """A signal asked the run to stop. Not an Exception: no library handler eats it."""


class Interrupts:
    """Handlers of SIGTERM, SIGINT and SIGUSR1 while the `with` block lasts.

    The first signal raises `Preempted` in the main thread, or where the outermost
    `shield` ends. Another one more than REPEAT_SECONDS later exits at once with
    EXIT_PREEMPTED, saving nothing. A `Preempted` that reaches the end of the block
    leaves the process with EXIT_PREEMPTED.
    """

    active: "Interrupts | None" = None

    def __init__(self) -> None:
        self.signal: int | None = None
        self._depth = 0
        self._previous: dict = {}

    def __enter__(self) -> "Interrupts":
        if Interrupts.active is not None:
            raise RuntimeError("Interrupts are installed already: use one block only")
        self._previous = {s: signal.getsignal(s) for s in (*SIGNALS, WAKE)}
        Interrupts.active = self
        bell, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._wakeup = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        signal.signal(WAKE, lambda *_: None)  # it has only to end a system call
        self.install()
        threading.Thread(target=self._watch, args=(bell,), daemon=True).start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None and issubclass(kind, Preempted):
            leave(EXIT_PREEMPTED)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe)
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        Interrupts.active = None

    def install(self) -> None:
        """Install the handlers; again after `jax.distributed.initialize` took them."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        if self.signal is not None:
            return
        self.signal = number
        name = signal.Signals(number).name
        # print() is not reentrant: a handler may interrupt another print. The terminal
        # may be gone, which is no reason not to save.
        with suppress(OSError):
            os.write(2, f"{name}: saving and leaving; again: leave at once\n".encode())
        if not self._depth:
            raise Preempted(name)

    def check(self) -> None:
        """Raise `Preempted` if a signal has come; for the head of every loop."""
        if self.signal is not None:
            raise Preempted(signal.Signals(self.signal).name)

    def _watch(self, bell: int) -> None:
        """Sees that a first signal is heard, and exits at once on one more than
        REPEAT_SECONDS later.

        A thread, told by the system at the moment of a signal: the main thread may be
        deep in a library for seconds, or for ever, before its handler runs. A signal
        that comes after Python last looked for one and before a system call does not
        cut that call short, however long it is: the thread does so.
        """
        main, first = threading.main_thread().ident, None
        waiting = select.poll()
        waiting.register(bell, select.POLLIN)
        while True:
            heard = first is None or self.signal is not None
            if not waiting.poll(None if heard else 1e3 * WAKE_SECONDS):
                signal.pthread_kill(main, WAKE)
                continue
            numbers = os.read(bell, 64)
            if not numbers:  # the block has ended
                os.close(bell)
                return
            if set(numbers) & set(SIGNALS):
                now = time.monotonic()
                first = now if first is None else first
                if now - first > REPEAT_SECONDS:
                    os._exit(EXIT_PREEMPTED)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold `Preempted` back until the block ends; an error of the block goes first.

        A signal that came before the block is not raised again, so that what runs after
        `except Preempted` may use shields too.
        """
        before = self.signal
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if before is None and not self._depth:
            self.check()


def shield():
    """The shield of the active `Interrupts`; does nothing where there is none."""
    return Interrupts.active.shield() if Interrupts.active else nullcontext()


def check() -> None:
    """Raise `Preempted` if a signal has come to the active `Interrupts`."""
    if Interrupts.active:
        Interrupts.active.check()


def leave(code: int) -> None:
    """Flush and exit with `code`, running no finalizer.

    Python's own way out crashes (SIGSEGV) after an interrupted compilation, and drops a
    save in flight.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """The active `Interrupts`, or new ones for the block."""
    if Interrupts.active is not None:
        yield Interrupts.active
    else:
        with Interrupts() as new:
            yield new
