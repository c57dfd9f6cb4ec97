"""One training run, read from top to bottom: config, data, model, restore, loop, result."""

import functools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm import config as configs
from lm import count, evaluate, generate, optim, runtime, sharding, step
from lm import model as models
from lm.checkpoint import Checkpoints
from lm.data import Batch, TrainBatches, prepare
from lm.results import read_rows
from lm.sequence import Sequence
from lm.signals import Interrupts, Preempted
from lm.step import TrainState
from lm.workdir import append_row, truncate_rows, workdir_lock, write_json

# Keys that reach the step as arrays, or never: programs are shared across them.
TRACED = (
    "name",
    "seed",
    "optim.lr",
    "optim.weight_decay",
    "optim.final_lr",
    "optim.clip",
    "optim.warmup",
    "train.duration",
    "eval.every",
    "data.train_bytes",
    "data.eval_bytes",
)


class Program(NamedTuple):
    """A model and its compiled functions."""

    model: models.LM
    mesh: jax.sharding.Mesh
    abstract: TrainState
    init: Any
    train_step: Any
    compile_seconds: float


def program(config, vocab_size: int) -> Program:
    """The program of a config; configs that differ in traced numbers share one."""
    static = config.to_dict()
    del static["run"]
    for key in TRACED:
        section, _, leaf = key.rpartition(".")
        (static[section] if section else static)[leaf] = None
    return _program(json.dumps(static, sort_keys=True), vocab_size)


@functools.lru_cache(maxsize=4)
def _program(static: str, vocab_size: int) -> Program:
    start = time.perf_counter()
    config = configs.from_json(static)
    mesh = sharding.mesh(config)
    model = models.build(config, vocab_size)
    initial = functools.partial(step.initial_state, model, config)
    abstract = jax.eval_shape(initial, jax.ShapeDtypeStruct((), jnp.int32))
    shardings = sharding.of_state(mesh, abstract)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )
    rows, micro_batches = batch_shape(config, mesh)
    train_step = step.jit_train_step(model, config, mesh, shardings, micro_batches)
    compiled = train_step.lower(
        abstract, _abstract_batch(rows, config.data.context), _abstract_hyper()
    ).compile()
    init = jax.jit(initial, out_shardings=shardings)
    seconds = time.perf_counter() - start
    return Program(model, mesh, abstract, init, compiled, seconds)


def batch_shape(config, mesh) -> tuple[int, int]:
    """(rows of the global batch, micro-batches) from tokens; errors name the keys."""
    rows = config.train.batch_tokens // config.data.context
    devices = mesh.size
    if rows % devices:
        raise ValueError(
            f"train.batch_tokens={config.train.batch_tokens} is {rows} rows of "
            f"data.context={config.data.context}, which {devices} devices cannot "
            f"share: make the rows a multiple of {devices}"
        )
    local = rows // devices
    limit = config.train.micro_tokens or local * config.data.context
    fitting = [
        n
        for n in range(1, local + 1)
        if local % n == 0 and local // n * config.data.context <= limit
    ]
    if not fitting:
        raise ValueError(
            f"train.micro_tokens={limit} is less than one row of "
            f"data.context={config.data.context}: raise it or shorten the context"
        )
    return rows, fitting[0]


def _abstract_batch(rows: int, context: int) -> Batch:
    shape = lambda dtype: jax.ShapeDtypeStruct((rows, context), dtype)
    i32, f32, boolean = shape(jnp.int32), shape(jnp.float32), shape(jnp.bool_)
    seq = Sequence(i32, i32, boolean, boolean)
    return Batch(i32, i32, f32, seq)


def _abstract_hyper() -> optim.Hyper:
    scalars = [jax.ShapeDtypeStruct((), jnp.float32)] * (len(optim.Hyper._fields) - 1)
    return optim.Hyper(*scalars, jax.ShapeDtypeStruct((), jnp.int32))


def run(config, workdir: Path) -> dict:
    """Trains, or goes on training, in `workdir`; returns its result.json.

    A signal saves the state and leaves the process with lm.signals.EXIT_PREEMPTED; the
    same call goes on from there. A loss that is not finite ends the run as "diverged".
    """
    with Interrupts() as interrupts, workdir_lock(workdir):
        return _run(config, workdir, interrupts)


def _run(config, workdir: Path, interrupts: Interrupts) -> dict:
    begin = time.perf_counter()
    _claim(config, workdir)
    result_path = workdir / "result.json"
    if result_path.exists():
        result = json.loads(result_path.read_text())
        if result["status"] in ("done", "diverged"):
            print(f"{workdir}: {result['status']} at step {result['step']} already")
            return result

    corpus = prepare(config.data)
    _same_data(corpus, workdir)
    context = config.data.context
    batch_rows = config.train.batch_tokens // context
    batches = TrainBatches(corpus, context, batch_rows, config.seed)
    durations = configs.durations(config, batches.steps_per_epoch)
    hyper = optim.hyper(config, durations.steps, durations.warmup)
    costs = count.summary(
        models.build(config, corpus.vocab_size),
        context,
        durations.steps * config.train.batch_tokens,
    )

    runtime.keep_compiled()
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep)
    meta = {"fingerprint": configs.fingerprint(config), "data": corpus.fingerprint}
    metrics_path = workdir / "metrics.jsonl"
    at, state, pending = 0, None, None
    clock = Clock(config.train.batch_tokens, durations.steps)

    def record(at: int, metrics: dict) -> None:
        """Writes the row of update `at`; raises Diverged."""
        values = {name: float(value) for name, value in metrics.items()}
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        if at % durations.log_every == 0 or at == durations.steps or not finite:
            tokens = at * config.train.batch_tokens
            row = {"kind": "train", "step": at, "tokens": tokens} | values
            append_row(metrics_path, row | {"seconds": clock.seconds(at)})
            clock.show(at, values["loss"])
        if not finite:
            raise Diverged(at)

    def flush() -> None:
        nonlocal pending
        if pending is not None:
            record(*pending)
            pending = None

    try:
        # 1. This workdir's own checkpoint; 2. the parameters of init_from; 3. scratch.
        compiled = program(config, corpus.vocab_size)
        model, mesh = compiled.model, compiled.mesh
        restored = checkpoints.restore_latest(compiled.abstract)
        if restored is not None:
            at, state, saved = restored
            _same_meta(meta, saved, workdir)
            print(f"{workdir}: resumed at step {at}")
        else:
            state = compiled.init(jnp.int32(config.seed))
            if config.run.init_from is not None:
                state = _init_from(config.run.init_from, state, compiled.abstract)
        truncate_rows(metrics_path, at)
        earlier = read_rows(metrics_path) if metrics_path.exists() else []
        validated = {row["step"] for row in earlier if row["kind"] == "validation"}
        clock.start(at)

        while True:
            interrupts.check()
            if at and at % durations.eval_every == 0 and at not in validated:
                flush()
                if at < durations.steps:
                    clock.pause()
                    row = _validate(model, state.params, corpus, config)
                    tokens = at * config.train.batch_tokens
                    with interrupts.shield():
                        row = {"kind": "validation", "step": at, "tokens": tokens} | row
                        append_row(metrics_path, row)
                        validated.add(at)
                    clock.show(at, None, row["bits_per_byte"])
                    _sample(model, state.params, corpus, config, workdir, at)
                    clock.resume()
            if at == durations.steps:
                break
            due = at and at % durations.checkpoint_every == 0
            if due and checkpoints.latest() != at:
                flush()
                checkpoints.save(at, state, meta)
            batch = sharding.put(mesh, batches(at))
            with interrupts.shield():
                state, metrics = compiled.train_step(state, batch, hyper)
                at += 1
                before, pending = pending, (at, metrics)
            if before is not None:
                record(*before)

        flush()
        speed = clock.speed() | {"compile_seconds": compiled.compile_seconds}
        checkpoints.ensure(at, state, meta)
        evaluations = {
            "validation": {
                "window": evaluate.window(
                    model, state.params, corpus, "validation", config
                )
            },
            "test": {
                "window": evaluate.window(model, state.params, corpus, "test", config),
                "stream": evaluate.stream(model, state.params, corpus, "test", config),
            },
        }
        _sample(model, state.params, corpus, config, workdir, at)
        result = {"status": "done", "step": at, "diverged_at": None} | evaluations
    except Diverged as error:
        speed = clock.speed()
        result = {"status": "diverged", "step": at, "diverged_at": error.step}
    except Preempted:
        flush()
        if state is not None:
            checkpoints.ensure(at, state, meta)
        checkpoints.close()
        raise
    checkpoints.close()
    result |= {
        "config": config.to_dict(),
        "fingerprint": configs.fingerprint(config),
        "data": corpus.manifest,
        "count": costs,
        "speed": speed | {"total_seconds": time.perf_counter() - begin},
        "machine": runtime.machine(),
    }
    write_json(result_path, result)
    return result


class Diverged(Exception):
    """The loss or the gradient of update `step` is not finite."""

    def __init__(self, step: int):
        super().__init__(f"loss not finite at step {step}")
        self.step = step


class Clock:
    """Seconds and speed of training alone, without compilation and evaluation."""

    def __init__(self, batch_tokens: int, steps: int):
        self._tokens, self._steps = batch_tokens, steps
        self._first, self._start, self._paused = 0, None, 0.0

    def start(self, at: int) -> None:
        self._first, self._start = at, time.perf_counter()

    def pause(self) -> None:
        self._pause = time.perf_counter()

    def resume(self) -> None:
        self._paused += time.perf_counter() - self._pause

    def seconds(self, at: int) -> float:
        return time.perf_counter() - self._start - self._paused

    def speed(self) -> dict:
        seconds = self.seconds(0) if self._start else 0.0
        done = max(self._at - self._first, 0) if hasattr(self, "_at") else 0
        rate = done * self._tokens / seconds if seconds else 0.0
        return {"tokens_per_second": rate, "seconds": seconds}

    def show(self, at: int, loss: float | None, bits: float | None = None) -> None:
        """One line of progress: over the last one on a terminal, else plain lines."""
        self._at = at
        seconds = max(self.seconds(at), 1e-9)
        rate = (at - self._first) * self._tokens / seconds
        left = (self._steps - at) * self._tokens / max(rate, 1e-9)
        what = (
            f"loss {loss:.4f} nats" if bits is None else f"valid {bits:.4f} bits/byte"
        )
        line = (
            f"step {at}/{self._steps}  {what}  {rate:,.0f} tokens/s  "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        terminal = sys.stdout.isatty()
        if terminal:
            last = at == self._steps or bits is not None
            print(f"\r{line:<79}", end="\n" if last else "", flush=True)
        elif (
            bits is not None
            or at * 10 // self._steps != self._shown * 10 // self._steps
        ):
            print(line, flush=True)
            self._shown = at

    _shown = 0


def _claim(config, workdir: Path) -> None:
    """Writes config.json, or refuses a workdir that holds another run."""
    path = workdir / "config.json"
    if path.exists():
        other = configs.from_json(path.read_text())
        if configs.fingerprint(other) != configs.fingerprint(config):
            key, was, now = next(
                row
                for row in configs.diff(other, config)
                if not row[0].startswith("run.")
                and row[0] not in ("name", "data.cache")
            )
            raise configs.ConfigError(
                f"{workdir} holds another run: {key} is {was!r} there and {now!r} now; "
                "take another --workdir, or the same config"
            )
    write_json(path, config.to_dict())


def _same_data(corpus, workdir: Path) -> None:
    path = workdir / "data.json"
    if path.exists():
        was = json.loads(path.read_text())["fingerprint"]
        if was != corpus.fingerprint:
            raise configs.ConfigError(
                f"{workdir} was trained on other data (fingerprint {was[:12]}, now "
                f"{corpus.fingerprint[:12]}): restore the source or take another "
                "--workdir"
            )
    write_json(path, corpus.manifest)


def _same_meta(meta: dict, saved: dict, workdir: Path) -> None:
    if meta != saved:
        raise configs.ConfigError(
            f"the checkpoint in {workdir} belongs to another run ({saved}, this is "
            f"{meta}): take another --workdir"
        )


def _init_from(source: str, state: TrainState, abstract: TrainState) -> TrainState:
    """`state` with the parameters of the newest checkpoint of another workdir."""
    checkpoints = Checkpoints(Path(source) / "checkpoints", keep=1)
    latest = checkpoints.latest()
    if latest is None:
        raise configs.ConfigError(
            f"run.init_from={source!r} has no checkpoint: name a trained workdir"
        )
    params = checkpoints.restore_params(latest, abstract.params)
    checkpoints.close()
    return state._replace(params=params)


def _validate(model, params, corpus, config) -> dict:
    result = evaluate.window(model, params, corpus, "validation", config)
    return {name: result[name] for name in ("nats_per_token", "bits_per_byte")}


def _sample(model, params, corpus, config, workdir: Path, at: int) -> None:
    if config.run.sample_tokens == 0:
        return
    text = generate.text(
        model, params, corpus, [config.run.prompt], config.run.sample_tokens, config
    )[0]
    path = workdir / "samples" / f"{at}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
