"""One training run, read from top to bottom: data, costs, state, loop, result."""

import json
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np

from lm import (
    averages,
    count,
    evaluate,
    generate,
    interop,
    optim,
    runtime,
    sharding,
    signals,
)
from lm import config as configs
from lm.card import Card
from lm.checkpoint import Checkpoints
from lm.claim import check_checkpoint, claim, same_data
from lm.config import ConfigError
from lm.data import Synthetic, prepare, train_batches
from lm.profile import NO_STEPS, Trace, check_steps
from lm.program import Program, program
from lm.progress import Progress
from lm.record import Record
from lm.rows import Diverged, Rows
from lm.signals import Preempted
from lm.step import TrainState
from lm.workdir import workdir_lock, write_json


def run(config, workdir: Path, profile: range = NO_STEPS) -> dict:
    """Trains, or goes on training, in `workdir`; returns its result.json.

    A signal saves the state and leaves the process with lm.signals.EXIT_PREEMPTED; the
    same call goes on from there. A loss that is not finite ends the run as "diverged".
    The updates after the steps `profile` are traced into workdir/profile.
    ConfigError: the workdir holds another run, or a trainer is at work in it.
    """
    with signals.interrupts() as interrupts, workdir_lock(workdir):
        claim(config, workdir)
        path = workdir / "result.json"
        if path.exists():
            result = json.loads(path.read_text())
            print(f"{workdir}: {result['status']} at step {result['step']} already")
            return result
        with Card(config, workdir) as card, Record(config, workdir) as record:
            folder = workdir / "checkpoints"
            with closing(Checkpoints(folder, config.run.keep)) as saved:
                result = _run(config, workdir, profile, saved, card, record, interrupts)
            write_json(path, result)
            card.end(result)
        interrupts.check()
        return result


def _run(
    config,
    workdir: Path,
    profile: range,
    checkpoints: Checkpoints,
    card: Card,
    record: Record,
    interrupts,
) -> dict:
    begin = time.perf_counter()
    runtime.keep_compiled()
    corpus = prepare(config.data)
    manifest = same_data(config, corpus, workdir, checkpoints.latest() or 0)
    batch_tokens, context = config.train.batch_tokens, config.data.context
    batches = train_batches(corpus, config)
    durations = configs.durations(config, batches.steps_per_epoch)
    steps = durations.steps
    check_steps(profile, steps)
    hyper = optim.hyper(config, *durations[:4])

    compiled = program(config, corpus.vocab_size)
    model = compiled.model
    costs = count.summary(model, context, steps * batch_tokens)
    meta = new_meta(config, corpus)

    def save(write) -> None:
        write(step, state, meta | {"seconds": progress.seconds()})

    def validate(most: int | None = None) -> dict:
        """judge() of the validation split; a sample, and then the row, for good."""
        results = judge(config, model, state, corpus, "validation", most)
        sample(config, model, state, corpus, workdir, step)
        rows.validation(step, next(iter(results.values())))
        return results

    trace = Trace(profile, workdir / "profile")
    step, state = 0, None
    try:
        step, first = start(config, workdir, compiled, checkpoints, meta, manifest)
        card.start(step, manifest)
        progress = Progress(steps, batch_tokens, step, meta["seconds"])
        path = workdir / "metrics.jsonl"
        rows = Rows(path, step, durations, batch_tokens, progress, record)
        state = first  # from here on a signal finds something to save
        train_step = compiled.train_step
        progress.start()
        while step < steps:
            interrupts.check()
            if step and step % durations.eval_every == 0 and step not in rows.validated:
                rows.write()
                with progress.apart():
                    validate(most=1)
            # What is on disk at a checkpoint is all that led to it.
            if step and step % durations.checkpoint_every == 0:
                rows.write()
                if step not in checkpoints.steps():
                    save(checkpoints.save)
            trace.before(step, state, progress)
            batch = batches(step)
            batch_hash = zlib.crc32(batch.tokens.tobytes())
            batch = sharding.put(compiled.mesh, batch)
            with interrupts.shield():
                state, metrics = train_step(state, batch, hyper)
                step += 1
                rows.add(step, batch_hash, metrics)
            rows.write(keep=1)
            trace.after(step, state, progress)
        rows.write()
        speed = progress.speed()
        save(checkpoints.ensure)
        with progress.apart():
            outcome = {
                "status": "done",
                "step": step,
                "diverged_at": None,
                "validation": validate(),
                "test": judge(config, model, state, corpus, "test"),
            }
    except Diverged as error:
        speed = progress.speed()
        outcome = {"status": "diverged", "step": error.step, "diverged_at": error.step}
    except Preempted:
        try:
            if state is not None:
                rows.write()
                save(checkpoints.ensure)
        except Diverged as error:
            message = f"{error}: not saved; the same command finds it again"
            print(message, file=sys.stderr)
        raise
    finally:
        trace.stop()
    speed |= {
        "compile_seconds": compiled.compile_seconds,
        "total_seconds": time.perf_counter() - begin,
    }
    return whole(outcome, config, meta, manifest, costs, speed)


def new_meta(config, corpus) -> dict:
    """What a checkpoint says of itself; the first two must agree to go on from it."""
    return {
        "fingerprint": configs.fingerprint(config),
        "data": corpus.fingerprint,
        "machines": [[0, runtime.machine()]],
        "seconds": 0.0,
    }


def whole(outcome: dict, config, meta: dict, manifest: dict, costs, speed) -> dict:
    """result.json of a run that ended so."""
    return outcome | {
        "config": config.to_dict(),
        "fingerprint": meta["fingerprint"],
        "data": manifest,
        "count": costs,
        "speed": speed,
        "machine": runtime.machine(),
        "machines": meta["machines"],
    }


def start(
    config,
    workdir: Path,
    compiled: Program,
    checkpoints: Checkpoints,
    meta: dict,
    manifest: dict,
) -> tuple[int, TrainState]:
    """(step, state) to go on from; takes over what `meta` says of earlier processes.

    1. This workdir's own newest checkpoint: a preempted run goes on.
    2. The parameters that train.init_from is judged by, or of a pretrained model, with
       new moments, at step 0.
    3. Scratch.
    """
    own = checkpoints.restore_latest(compiled.abstract)
    if own is not None:
        step, state, saved = own
        check_checkpoint(saved, meta, manifest, workdir)
        meta["seconds"] = saved["seconds"]
        (_, here), machines = meta["machines"][0], saved["machines"]
        changed = [k for k in here if here[k] != machines[-1][1].get(k)]
        meta["machines"] = machines + ([[step, here]] if changed else [])
        print(f"{workdir}: going on from step {step}")
        if changed:
            print(f"  on another machine ({', '.join(changed)}): not bitwise")
        return step, state
    if config.train.init_from is None:
        return 0, compiled.init(np.int32(config.seed))
    if interop.is_pretrained(config.train.init_from):
        params = compiled.abstract.params
        params = interop.initial(config.train.init_from, config, params)
        return 0, compiled.start(params)
    folder = Path(config.train.init_from)
    with closing(Checkpoints(folder / "checkpoints", 1)) as source:
        latest = source.latest()
        if latest is None:
            raise ConfigError(
                f"train.init_from={config.train.init_from!r} has no checkpoint: name "
                "the workdir of a trained run"
            )
        path = folder / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"train.init_from={config.train.init_from!r} has no config.json, which "
                "says what its checkpoint holds: name the workdir of a trained run"
            )
        trained = configs.from_json(path.read_text())
        params = averages.restored(trained, source, latest, compiled.abstract.params)
    return 0, compiled.start(params)


def judge(config, model, state, corpus, split: str, most: int | None = None) -> dict:
    """{protocol: EVAL} of a split, by the first `most` of its protocols."""
    params = averages.evaluated(config, state)
    chosen = list(evaluate.protocols(corpus, split).items())[:most]
    return {name: of(model, params, corpus, split, config) for name, of in chosen}


def sample(config, model, state, corpus, workdir: Path, step: int) -> None:
    """Writes samples/STEP.txt; a task has no text to go on with."""
    if config.run.sample_tokens and not isinstance(corpus, Synthetic):
        path = workdir / "samples" / f"{step}.txt"
        path.parent.mkdir(exist_ok=True)
        params = averages.evaluated(config, state)
        text = generate.sample(model, params, corpus, config)
        path.write_text(text, encoding="utf-8")
