"""Runs that differ in numbers alone, trained as one program over an axis P of members.

A member leaves in its workdir what lm.train leaves of its run, equal but for rounding;
its times are its share of those of all.
"""

import functools
import itertools
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lm import count, runtime, sharding, signals, train
from lm.checkpoint import steps_of
from lm.config import ConfigError, diff, flatten
from lm.data import prepare
from lm.member import Member, Share
from lm.program import OPTIONAL, TRACED, Program, batch_shape
from lm.progress import Progress
from lm.rows import Diverged
from lm.signals import Preempted
from lm.step import train_step

# Durations that members have in common, in steps, and the keys that say them.
COMMON = {
    "steps": "train.duration",
    "eval_every": "eval.every",
    "checkpoint_every": "run.checkpoint_every",
}


def run(configs: Sequence, workdirs: Sequence[Path]) -> list[dict]:
    """Trains each config in its workdir, or goes on training; their results in order.

    Members whose newest checkpoints are of one step are one program; one that has none
    like it, and all on a mesh that splits parameters, are trained by lm.train.run.
    Signals, and a loss that is not finite, as there; the other members go on.
    ConfigError: names the key by which two members are not one program, or as there.
    """
    with signals.interrupts() as interrupts:
        runtime.keep_compiled()
        corpora = {data: prepare(data) for data in {c.data for c in configs}}
        members = [
            Member(config, Path(workdir), corpora[config.data])
            for config, workdir in zip(configs, workdirs, strict=True)
        ]
        _check(members)
        waiting = [m for m in members if not m.result_path.exists()]
        newest = lambda m: max(steps_of(m.workdir / "checkpoints"), default=-1)
        for _, group in itertools.groupby(sorted(waiting, key=newest), newest):
            _train(list(group), interrupts)
        return [m.result or train.run(m.config, m.workdir) for m in members]


def _check(members: list[Member]) -> None:
    """ConfigError names a key by which a member is not of the first one's program."""
    first = members[0]
    steps = lambda m, field: getattr(m.durations, field)
    for member in members[1:]:
        wrong = [k for f, k in COMMON.items() if steps(member, f) != steps(first, f)]
        if member.program is not first.program:
            keys = [key for key, *_ in diff(first.config, member.config)]
            keys = [key for key in keys if not key.startswith("run.")]
            wrong = sorted(keys, key=lambda key: (key in TRACED, key in OPTIONAL))
        if wrong:
            a, b = (flatten(m.config).get(wrong[0]) for m in (first, member))
            raise ConfigError(
                f"{wrong[0]} is {a!r} in {first.workdir} and {b!r} in "
                f"{member.workdir}, and a population is one program: train them apart"
            )


class Stack:
    """The program of P members, its update compiled at the first `compile`.

    Members are split over the devices where those divide P; else each device has all.

    Attributes:
      put: leaves of P members each -> leaves [P, ...] on the devices.
      at: (stacked state, i) -> that of member i, placed as its own run would.
    """

    def __init__(self, one: Program, P: int):
        self._one, self._update = one, None
        divides = P % one.mesh.size == 0
        split = PartitionSpec(sharding.AXES) if divides else PartitionSpec()
        self._placed = NamedSharding(one.mesh, split)
        own = jax.tree.map(lambda x: x.sharding, one.abstract)
        member = lambda state, i: jax.tree.map(lambda x: x[i], state)
        self.at = jax.jit(member, out_shardings=own)

    def put(self, members: Sequence):
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
        return jax.device_put(stacked, self._placed, may_alias=False)

    def compile(self, config, state, batch, hyper) -> Callable:
        """(state, batch, hyper) -> (state, metrics), all of P members."""
        if self._update is None:
            begin = time.perf_counter()
            _, micro_batches = batch_shape(config, 1)
            one = functools.partial(train_step, self._one.model, config, micro_batches)
            jitted = jax.jit(
                jax.vmap(one), out_shardings=self._placed, donate_argnums=0
            )
            self._update = jitted.lower(state, batch, hyper).compile()
            self.seconds = time.perf_counter() - begin
        return self._update


@functools.lru_cache(maxsize=4)
def stack(one: Program, P: int) -> Stack:
    return Stack(one, P)


def _train(group: list[Member], interrupts) -> None:
    """Trains members as one program, unless they cannot be one after all."""
    if len(group) == 1 or group[0].program.mesh.shape["fsdp"] > 1:
        return
    with ExitStack() as opened:
        for member in group:
            opened.enter_context(member)
        if not any(member.result_path.exists() for member in group):
            _together(group, interrupts)
    interrupts.check()


def _together(group: list[Member], interrupts) -> None:
    begin, P = time.perf_counter(), len(group)
    first = group[0]
    steps, eval_every, checkpoint_every = (
        getattr(first.durations, field) for field in COMMON
    )
    found, states = zip(*(member.restore() for member in group), strict=True)
    if len(set(found)) > 1:
        return  # a damaged checkpoint was set aside
    step, state = int(found[0]), None
    program = stack(first.program, P)
    tokens = P * first.config.train.batch_tokens
    model, context = first.program.model, first.config.data.context
    costs = count.summary(model, context, steps * first.config.train.batch_tokens)
    clock = Progress(steps, tokens, step, sum(m.meta["seconds"] for m in group))
    pending: deque = deque()
    print(f"{P} runs as one program from step {step}", flush=True)

    def live() -> list[tuple[int, Member]]:
        return [(i, member) for i, member in enumerate(group) if not member.result]

    def end(member: Member, outcome: dict) -> None:
        total = time.perf_counter() - begin
        speed = clock.speed() | {"seconds": clock.seconds() / P}
        speed |= {"compile_seconds": program.seconds / P, "total_seconds": total / P}
        member.end(outcome, costs, speed | {"population": P})

    def write(keep: int = 0) -> None:
        """Rows of all but the newest `keep` updates; ends members that diverged."""
        while len(pending) > keep:
            values = jax.device_get(pending[0][2])
            with signals.shield():
                at, hashes, _ = pending.popleft()
                for i, member in live():
                    row = {name: value[i] for name, value in values.items()}
                    member.rows.add(at, hashes[i], row)
                    try:
                        member.rows.write()
                    except Diverged:
                        print(f"\n{member.workdir}: diverged at step {at}", flush=True)
                        outcome = {"status": "diverged", "step": at, "diverged_at": at}
                        end(member, outcome)
                losses = [values["loss"][i] for i, _ in live()]
                clock.trained(at, float(np.mean(losses or values["loss"])))

    try:
        for member in group:
            member.start(step, Share(clock, P))
        state = program.put(states)
        hyper = program.put([member.hyper for member in group])
        drawn = lambda: [member.batches(step) for member in group]
        update = program.compile(first.config, state, program.put(drawn()), hyper)
        clock.start()
        while step < steps and live():
            interrupts.check()
            if step and step % eval_every == 0:
                write()
                with clock.apart():
                    for i, member in live():
                        if step not in member.rows.validated:
                            member.validate(step, program.at(state, i), most=1)
            if step and step % checkpoint_every == 0:
                write()
                for i, member in live():
                    if step not in member.checkpoints.steps():
                        one = program.at(state, i)
                        member.save(member.checkpoints.save, step, one)
            batches = drawn()
            hashes = [zlib.crc32(batch.tokens.tobytes()) for batch in batches]
            batches = program.put(batches)
            with interrupts.shield():
                state, metrics = update(state, batches, hyper)
                step += 1
                pending.append((step, hashes, metrics))
            write(keep=1)
        write()
        for i, member in live():
            member.save(member.checkpoints.ensure, step, program.at(state, i))
        with clock.apart():
            for i, member in live():
                one = program.at(state, i)
                outcome = {"status": "done", "step": step, "diverged_at": None}
                outcome["validation"] = member.validate(step, one)
                end(member, outcome | {"test": member.test(one)})
    except Preempted:
        if state is not None:
            write()
            for i, member in live():
                member.save(member.checkpoints.ensure, step, program.at(state, i))
        raise
