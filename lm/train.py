"""One training run, read from top to bottom: data, costs, state, loop, result."""

import json
import math
import time
import zlib
from collections import deque
from pathlib import Path

import jax
import jax.numpy as jnp

from lm import config as configs
from lm import count, evaluate, generate, optim, runtime, sharding, signals
from lm.checkpoint import Checkpoints
from lm.config import ConfigError
from lm.data import TrainBatches, prepare
from lm.program import Program, program
from lm.progress import Progress
from lm.results import read_rows
from lm.signals import Preempted
from lm.step import TrainState
from lm.workdir import append_row, truncate_rows, workdir_lock, write_json


class Diverged(Exception):
    """The loss or the gradient of an update is not finite."""

    def __init__(self, step: int):
        super().__init__(f"loss or gradient not finite at step {step}")
        self.step = step


def run(config, workdir: Path) -> dict:
    """Trains, or goes on training, in `workdir`; returns its result.json.

    A signal saves the state and leaves the process with lm.signals.EXIT_PREEMPTED; the
    same call goes on from there. A loss that is not finite ends the run as "diverged".
    ConfigError: the workdir holds another run, or a trainer is at work in it.
    """
    with signals.interrupts() as interrupts, workdir_lock(workdir):
        return _run(config, workdir, interrupts)


def _run(config, workdir: Path, interrupts: signals.Interrupts) -> dict:
    begin = time.perf_counter()
    _claim(config, workdir)
    if (workdir / "result.json").exists():
        result = json.loads((workdir / "result.json").read_text())
        print(f"{workdir}: {result['status']} at step {result['step']}, nothing to do")
        return result

    corpus = prepare(config.data)
    _same_data(corpus, workdir)
    batch_tokens, context = config.train.batch_tokens, config.data.context
    batches = TrainBatches(corpus, context, batch_tokens // context, config.seed)
    durations = configs.durations(config, batches.steps_per_epoch)
    steps = durations.steps

    runtime.keep_compiled()
    compiled = program(config, corpus.vocab_size)
    model = compiled.model
    costs = count.summary(model, context, steps * batch_tokens)
    hyper = optim.hyper(config, steps, durations.warmup)
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep)
    meta = {"fingerprint": configs.fingerprint(config), "data": corpus.fingerprint}
    metrics_path = workdir / "metrics.jsonl"

    def drain(keep: int) -> None:
        """Writes the metrics of all but the newest `keep` updates; raises Diverged.

        Metrics are fetched one update late, so that the device never waits.
        """
        while len(pending) > keep:
            at, batch_crc, metrics = pending[0]
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            finite = math.isfinite(values["loss"]) and math.isfinite(
                values["grad_norm"]
            )
            row = {"kind": "train", "step": at, "tokens": at * batch_tokens} | values
            row |= {"batch": batch_crc, "seconds": progress.seconds()}
            with interrupts.shield():
                pending.popleft()
                if at % durations.log_every == 0 or at == steps or not finite:
                    append_row(metrics_path, row)
            progress.trained(at, values["loss"])
            if not finite:
                raise Diverged(at)

    def validate() -> dict:
        """EVAL of the validation text now; its row, once; a sample."""
        with progress.apart():
            result = evaluate.window(model, state.params, corpus, "validation", config)
            if step not in validated:
                row = {
                    "kind": "validation",
                    "step": step,
                    "tokens": step * batch_tokens,
                }
                row |= {k: result[k] for k in ("nats_per_token", "bits_per_byte")}
                with interrupts.shield():
                    append_row(metrics_path, row)
                    validated.add(step)
            _sample(model, state.params, corpus, config, workdir, step)
        progress.validated(result["bits_per_byte"])
        return result

    step, state, pending = 0, None, deque()
    try:
        step, state = _start(config, workdir, compiled, checkpoints, meta)
        truncate_rows(metrics_path, step)
        rows = read_rows(metrics_path) if metrics_path.exists() else []
        validated = {row["step"] for row in rows if row["kind"] == "validation"}
        train_step = compiled.train_step
        progress = Progress(steps, batch_tokens, step)
        while step < steps:
            interrupts.check()
            if step and step % durations.eval_every == 0 and step not in validated:
                drain(0)
                validate()
            # What is on disk at a checkpoint is all that led to it.
            if step and step % durations.checkpoint_every == 0:
                drain(0)
                if step not in checkpoints.steps():
                    checkpoints.save(step, state, meta)
            batch = batches(step)
            batch_crc = zlib.crc32(batch.tokens.tobytes())
            on_device = sharding.put(compiled.mesh, batch)
            with interrupts.shield():
                state, metrics = train_step(state, on_device, hyper)
                step += 1
                pending.append((step, batch_crc, metrics))
            drain(1)
        drain(0)
        speed = progress.speed()
        checkpoints.ensure(step, state, meta)
        evaluations = {
            "validation": {"window": validate()},
            "test": {
                name: protocol(model, state.params, corpus, "test", config)
                for name, protocol in evaluate.PROTOCOLS.items()
            },
        }
        result = {"status": "done", "step": step, "diverged_at": None} | evaluations
    except Diverged as error:
        speed = progress.speed()
        result = {"status": "diverged", "step": error.step, "diverged_at": error.step}
    except Preempted:
        _save_and_leave(step, state, meta, checkpoints, drain)
        raise
    checkpoints.close()
    result |= {
        "config": config.to_dict(),
        "fingerprint": meta["fingerprint"],
        "data": corpus.manifest,
        "count": costs,
        "speed": speed
        | {
            "compile_seconds": compiled.compile_seconds,
            "total_seconds": time.perf_counter() - begin,
        },
        "machine": runtime.machine(),
    }
    write_json(workdir / "result.json", result)
    return result


def _start(
    config, workdir: Path, compiled: Program, checkpoints: Checkpoints, meta: dict
) -> tuple[int, TrainState]:
    """(step, state) to go on from. The order matters:

    1. this workdir's own newest checkpoint: a preempted run goes on;
    2. the parameters of run.init_from, with new moments, at step 0;
    3. scratch.
    """
    own = checkpoints.restore_latest(compiled.abstract)
    if own is not None:
        step, state, saved = own
        if saved != meta:
            raise ConfigError(
                f"the checkpoint in {workdir} belongs to another run ({saved}, this "
                f"is {meta}): take another --workdir"
            )
        print(f"{workdir}: going on from step {step}")
        return step, state
    state = compiled.init(jnp.int32(config.seed))
    if config.run.init_from is None:
        return 0, state
    source = Checkpoints(Path(config.run.init_from) / "checkpoints", keep=1)
    latest = source.latest()
    if latest is None:
        raise ConfigError(
            f"run.init_from={config.run.init_from!r} has no checkpoint: name the "
            "workdir of a trained run"
        )
    params = source.restore_params(latest, compiled.abstract.params)
    source.close()
    return 0, state._replace(params=params)


def _save_and_leave(step, state, meta, checkpoints: Checkpoints, drain) -> None:
    """After a signal: rows and state to disk, unless they are of a diverged update."""
    try:
        if state is not None:
            drain(0)
            checkpoints.ensure(step, state, meta)
    except Diverged as error:
        print(f"{error}: not saved, the run ends there when it is started again")
    checkpoints.close()


def _claim(config, workdir: Path) -> None:
    """Writes config.json, or refuses a workdir that holds another run."""
    path = workdir / "config.json"
    if path.exists():
        other = configs.from_json(path.read_text())
        for key, was, now in configs.diff(other, config):
            if configs.changes_result(key):
                raise ConfigError(
                    f"{workdir} holds another run: {key} is {was!r} there and {now!r} "
                    "now; take another --workdir, or the same config"
                )
    write_json(path, config.to_dict())


def _same_data(corpus, workdir: Path) -> None:
    """Writes data.json, or refuses to go on with other text."""
    path = workdir / "data.json"
    if path.exists():
        was = json.loads(path.read_text())["fingerprint"]
        if was != corpus.fingerprint:
            raise ConfigError(
                f"{workdir} was trained on other data (fingerprint {was[:12]}, now "
                f"{corpus.fingerprint[:12]}): restore the source or take another "
                "--workdir"
            )
    write_json(path, corpus.manifest)


def _sample(model, params, corpus, config, workdir: Path, step: int) -> None:
    """Writes samples/STEP.txt: the prompt of the config and what follows it."""
    if config.run.sample_tokens == 0:
        return
    prompts, tokens = [config.run.prompt], config.run.sample_tokens
    path = workdir / "samples" / f"{step}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(generate.text(model, params, corpus, prompts, tokens, config)[0])
