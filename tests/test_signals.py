"""Real signals in every phase of a run: what is done is saved, and the code says so."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import signals
from lm.checkpoint import Checkpoints
from lm.signals import EXIT_PREEMPTED, Interrupts, Preempted, shield

ROOT = Path(__file__).parent.parent
ME = os.getpid()


@pytest.fixture
def left(monkeypatch):
    """Codes that `leave` was called with, in place of leaving."""
    codes = []
    monkeypatch.setattr(signals, "leave", codes.append)
    yield codes
    for number in signals.SIGNALS:
        signal.signal(number, signal.default_int_handler)
    Interrupts.active = None


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_raises_at_once_and_leaving_the_block_exits(left, number):
    with pytest.raises(Preempted), Interrupts() as interrupts:
        interrupts.check()
        os.kill(ME, number)
    assert left == [75]


@pytest.fixture
def interrupts(left):
    with Interrupts() as interrupts:
        yield interrupts


def test_a_shield_holds_it_back_to_its_own_end(interrupts):
    done = []
    with pytest.raises(Preempted, match="SIGTERM"), shield():
        with interrupts.shield():
            os.kill(ME, signal.SIGTERM)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with shield():  # on the way out: not raised a second time
        done.append("saved")
    with pytest.raises(Preempted):
        interrupts.check()


def test_a_main_thread_that_went_to_sleep_before_its_handler_ran_is_woken(interrupts):
    """The system's part of a handler runs on another thread: no call is cut short.

    So it is too where it runs on the main thread between Python's last look for signals
    and the system call, a window of microseconds.
    """

    def strike():
        time.sleep(0.2)  # by then the main thread is asleep
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=strike).start()
    begin = time.monotonic()
    with pytest.raises(Preempted, match="SIGTERM"):
        time.sleep(20)
    assert time.monotonic() - begin < 10


def test_it_raises_where_stderr_is_gone(interrupts):
    kept = os.dup(2)
    os.close(2)
    try:
        with pytest.raises(Preempted):
            os.kill(ME, signal.SIGTERM)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_an_error_inside_a_shield_is_not_hidden_by_the_signal(interrupts):
    with pytest.raises(ZeroDivisionError), shield():
        os.kill(ME, signal.SIGTERM)
        raise ZeroDivisionError
    with pytest.raises(Preempted):
        interrupts.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_swallowed_in_a_garbage_collection_is_found(interrupts):
    kill = lambda phase, info: os.kill(ME, signal.SIGTERM) if phase == "start" else None
    gc.callbacks.append(kill)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(kill)
    with pytest.raises(Preempted):
        interrupts.check()


def test_handlers_are_put_back_and_can_be_installed_again(left):
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupts.install()
        with pytest.raises(Preempted):
            os.kill(ME, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="one block"), Interrupts():
            pass
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert left == [] and Interrupts.active is None
    with shield():
        pass


def test_importing_it_imports_no_jax():
    code = "import sys, lm.signals, lm.workdir; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


LOOP = '''
import sys; sys.path[:0] = [ROOT]
import hashlib, time
from pathlib import Path
from lm.signals import Interrupts, Preempted
phase = sys.argv[2]

def at(name, seconds=60.0):
    """Tell the parent that `name` has begun; sleep if that is where it will strike."""
    print(name, flush=True)
    if name == phase:
        time.sleep(seconds)

with Interrupts() as interrupts:
    import jax, jax.numpy as jnp
    import lm.manifest
    from lm.checkpoint import Checkpoints

    def slow_to_compile(x):
        for i in range(1200):
            x = jnp.sin(x) @ x + i
        return x

    def update(x, repeats):
        return jax.lax.fori_loop(0, repeats, lambda i, x: jnp.tanh(x @ x) + 1, x)

    checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
    if phase == "write":  # orbax's own thread, while the main thread waits for it
        checksum = lm.manifest.checksum
        lm.manifest.checksum = lambda path: at("write", 0.1) or checksum(path)
    if phase == "save":  # inside the call, in the main thread
        save = checkpoints._orbax.save
        checkpoints._orbax.save = lambda *a, **k: (at("save", 1.5), save(*a, **k))
    step, state = 0, {"x": jnp.eye(700), "count": jnp.int32(0)}
    try:
        if phase == "compile":
            lowered = jax.jit(slow_to_compile).lower(state["x"])
            print("compile", flush=True)
            lowered.compile()
            print("compiled", flush=True)
        run = lambda s, n: {"x": update(s["x"], n), "count": s["count"] + 1}
        train_step = jax.jit(run, donate_argnums=0).lower(state, 1).compile()
        while step < 3:
            interrupts.check()
            at("batch")
            with interrupts.shield():
                slow = step == 2 and phase in ("step", "leaving")
                state = train_step(state, 800 if slow else 1)
                step += 1
            print("step", flush=True)
            jax.block_until_ready(state)
            if step == 2:
                checkpoints.save(step, state, {"phase": phase})
                checkpoints.wait()
            if step == (3 if phase in ("step", "leaving") else 2):
                time.sleep(60)  # a parent that was held up strikes here instead
        print("finished", flush=True)
    except Preempted as error:
        print("leaving", flush=True)
        if phase == "leaving":  # deaf: the main thread runs no handler for a minute
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
        checkpoints.ensure(step, state, {"phase": phase, "signal": str(error)})
        checkpoints.close()
        print("saved", flush=True)
        raise
'''


class Loop:
    """The loop above as a process; `until` reads on to a phase that it prints."""

    def __init__(self, folder, phase):
        code = LOOP.replace("ROOT", repr(str(ROOT)))
        self.folder, self.printed = folder, []
        command = [sys.executable, "-c", code, str(folder), phase]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, **pipes)

    def until(self, phase, times=1):
        for _ in range(times):
            for line in iter(self.process.stdout.readline, f"{phase}\n"):
                assert line, self.process.stderr.read()
                self.printed.append(line.strip())
        time.sleep(0.2)
        return self

    def kill(self, *numbers):
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.2)  # jax looks every 0.1 s; two of a kind merge before that
        return self

    def left(self):
        """What it printed to stderr; asserts the documented exit code."""
        out, err = self.process.communicate()
        self.printed += out.split()
        assert self.process.returncode == EXIT_PREEMPTED, err
        return err

    def saved(self):
        """(step, meta) of the newest checkpoint, whose count must be the step."""
        x = jax.ShapeDtypeStruct((700, 700), jnp.float32)
        wanted = {"x": x, "count": jax.ShapeDtypeStruct((), jnp.int32)}
        step, state, meta = Checkpoints(self.folder, 2).restore_latest(wanted)
        assert int(state["count"]) == step and np.isfinite(state["x"]).all()
        return step, meta


@pytest.mark.parametrize(
    "phase, times, step, number",
    [
        ("compile", 1, 0, signal.SIGTERM),
        ("batch", 1, 0, signal.SIGINT),
        ("step", 3, 3, signal.SIGUSR1),
        ("save", 1, 2, signal.SIGTERM),
        ("write", 1, 2, signal.SIGINT),
    ],
)
def test_from_any_phase_the_state_is_saved_and_the_code_is_75(
    tmp_path, phase, times, step, number
):
    """Each signal is sent twice at once, as `timeout` and Slurm do."""
    loop = Loop(tmp_path, phase).until(phase, times).kill(number, number)
    name = signal.Signals(number).name
    assert loop.left() == f"{name}: saving and leaving; again: leave at once\n"
    assert loop.printed[-1] == "saved"
    assert not {"compiled", "finished"} & set(loop.printed)
    where = {"phase": phase}
    assert loop.saved() == (
        step,
        where if phase in ("save", "write") else where | {"signal": name},
    )


def test_a_second_signal_leaves_at_once(tmp_path):
    loop = Loop(tmp_path, "leaving").until("step", 3).kill(signal.SIGTERM)
    loop.until("leaving")
    time.sleep(signals.REPEAT_SECONDS)
    loop.kill(signal.SIGTERM).left()
    assert "saved" not in loop.printed
    assert loop.saved() == (2, {"phase": "leaving"})
