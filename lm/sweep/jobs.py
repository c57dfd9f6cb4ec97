"""What a worker of a comparison does; the only part of it that imports jax."""

import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from lm import config as configs
from lm import count, model, optim, population, runtime, sharding, train
from lm.data import prepare, train_batches
from lm.program import program


def fit(config_json: str, quantity: str, target: float, by: str, vocab_size: int):
    """(value of `by`, achieved) that brings an arm to the target."""
    nested = json.loads(config_json)
    section, _, leaf = by.rpartition(".")

    def build(value: int):
        place = nested
        for name in section.split("."):
            place = place[name]
        place[leaf] = value
        return model.build(configs.from_json(json.dumps(nested)), vocab_size)

    context = nested["data"]["context"]
    return count.fit(build, by, count.quantity(quantity, context), target)


def run(config_json: str, workdir: str) -> dict:
    """Trains one run; its status and headline figures."""
    return _facts(train.run(configs.from_json(config_json), Path(workdir)))


def members(config_jsons: tuple[str, ...], workdirs: tuple[str, ...]) -> list[dict]:
    """`run` of each, all as one program."""
    members = [configs.from_json(text) for text in config_jsons]
    return list(map(_facts, population.run(members, list(map(Path, workdirs)))))


def _facts(result: dict) -> dict:
    facts = {key: result[key] for key in ("status", "diverged_at")}
    return facts | {"told": headline(result)}


def headline(result: dict) -> str:
    """The test figures of a finished run in a few words."""
    test = result.get("test", {})
    if "window" in test:
        return f"test {test['window']['bits_per_byte']:.3f} bits/byte"
    known = {k: e["accuracy"] for k, e in test.items() if "accuracy" in e}
    return "accuracy " + ", ".join(f"{k} {v:.3f}" for k, v in known.items())


def speed(config_json: str, seconds: float) -> dict:
    """Median seconds of a training step alone on the machine, and tokens per second.

    Args:
      seconds: to time steps for, after two that warm up; but three steps at least.
    """
    config = configs.from_json(config_json)
    runtime.keep_compiled()
    corpus = prepare(config.data)
    batches = train_batches(corpus, config)
    compiled = program(config, corpus.vocab_size)
    durations = configs.durations(config, batches.steps_per_epoch)
    d = durations
    hyper = optim.hyper(config, d.steps, d.warmup, d.decay, d.polyak_start)
    state, times = compiled.init(np.int32(config.seed)), []
    while len(times) < 5 or sum(times[2:]) < seconds:
        begin = time.perf_counter()
        batch = sharding.put(compiled.mesh, batches(len(times)))
        state, metrics = compiled.train_step(state, batch, hyper)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begin)
    median = statistics.median(times[2:])
    return {
        "step_seconds": median,
        "tokens_per_second": config.train.batch_tokens / median,
        "steps": durations.steps,
    }
