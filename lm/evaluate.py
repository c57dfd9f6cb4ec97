"""What a model makes of held-out text, or of rows of a task.

A text gives nats, bits per byte and loss by position, by two protocols. `window`: the
state is reset at each window, so every arm has equal information; the headline.
`stream`: the recurrent state, or an attention cache of a stated size, is carried
through the text. Each test of a task gives nats and accuracy of its scored places.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from lm import answers, restore, sharding, signals, step
from lm.config import ConfigError
from lm.data import Batch, Synthetic, baselines, stream_batches, window_batches
from lm.data.synthetic import SAME
from lm.errors import choose

BLOCK = 2_000  # tokens; the unit of the bootstrap over text


@functools.lru_cache(maxsize=8)
def _forward(model):
    return jax.jit(functools.partial(step.forward, model))


def window(model, params, corpus, split: str, config) -> dict:
    """EVAL of a split, state reset at each window of data.context tokens."""
    rows, context = config.eval.rows, config.data.context
    empty = step.empty_state(model, params, rows, 0)
    batches = window_batches(corpus, split, context, rows)
    forward = lambda batch: _forward(model)(params, batch, empty)[0]
    # Rows follow each other in the text.
    tokens = _tokens(forward, sharding.over(params, batches), axis=0)
    settings = {"protocol": "window", "context": context, "cache": 0}
    return settings | summarise(*tokens, *_covered(corpus, split))


def stream(model, params, corpus, split: str, config) -> dict:
    """EVAL of a split read in eval.rows lanes whose state is carried to their end.

    An attention cache holds eval.stream_chunk past tokens, so a query sees between one
    and two chunks; learned positions end at the context and cannot be carried past it.
    """
    if model.positions:
        return {"unavailable": "learned positions end at data.context"}
    rows, chunk = config.eval.rows, config.eval.stream_chunk
    state = step.empty_state(model, params, rows, chunk)

    def forward(batch):
        nonlocal state
        nats_BxT, state = _forward(model)(params, batch, state)
        return nats_BxT

    batches = stream_batches(corpus, split, chunk, rows)
    # A row goes on in the next batch.
    tokens = _tokens(forward, sharding.over(params, batches), axis=1)
    settings = {"protocol": "stream", "context": chunk, "cache": chunk}
    return settings | summarise(*tokens, *_covered(corpus, split))


def _tokens(forward: Callable, batches: Iterable[Batch], axis: int) -> list:
    """[nats, weights, positions] of the targets, [N], in the text's order.

    All tokens of the split but the first, each once.
    """
    parts = []
    for batch in batches:
        signals.check()
        seq = batch.seq
        columns = (forward(batch), batch.weights, seq.positions, seq.valid)
        parts.append(jax.device_get(columns))
    columns = zip(*parts, strict=True)
    *columns, valid = (np.concatenate(column, axis).reshape(-1) for column in columns)
    return [column[valid] for column in columns]


def _covered(corpus, split: str) -> tuple:
    """(bytes that each target covers, which targets are <unk> or None), each [N]."""
    unknown = None
    if corpus.unknown is not None:
        unknown = corpus.tokens(split)[1:] == corpus.unknown
    return corpus.sizes(split)[1:], unknown


def summarise(nats_N, weights_N, positions_N, sizes_N, unknown_N=None) -> dict:
    """The figures of targets in the order of the text; weight 0 leaves one out.

    nats, bits_per_byte and blocks charge an unknown target its spelling, so that they
    are of a code for the whole text: of each of its bytes and of an end mark, log 257
    nats. nats_per_token, perplexity and by_position are the model's own.

    Args:
      sizes_N: bytes of the text that each target covers; unknown_N: bool, it is <unk>.
    """
    kept = weights_N > 0
    nats_N = nats_N[kept].astype(np.float64)
    bytes_N = np.asarray(sizes_N)[kept].astype(np.int64)
    coded_N, facts = nats_N, {}
    if unknown_N is not None:
        unknown_N = np.asarray(unknown_N)[kept]
        spelling_N = unknown_N * (bytes_N + 1) * math.log(257)
        coded_N = nats_N + spelling_N
        counts = {
            "tokens": int(unknown_N.sum()),
            "bytes": int(bytes_N[unknown_N].sum()),
        }
        facts["unknown"] = counts | {"nats": float(spelling_N.sum())}
    own, nats, size = (float(nats_N.sum()), float(coded_N.sum()), int(bytes_N.sum()))
    blocks = [slice(i, i + BLOCK) for i in range(0, len(nats_N), BLOCK)]
    with np.errstate(over="ignore"):  # a perplexity beyond float64 is inf
        perplexity = float(np.exp(own / len(nats_N)))
    return facts | {
        "tokens": len(nats_N),
        "bytes": size,
        "nats": nats,
        "nats_per_token": own / len(nats_N),
        "bits_per_byte": nats / size / math.log(2),
        "perplexity": perplexity,
        "by_position": by_position(nats_N, positions_N[kept]),
        "blocks": [[float(coded_N[b].sum()), int(bytes_N[b].sum())] for b in blocks],
    }


def by_position(nats_N, positions_N) -> list:
    """[first, last, nats a token] of positions 0, 1, 2-3, 4-7, ... since the reset."""
    bucket_N = np.frexp(positions_N)[1]  # p < 2 ** bucket, exactly
    rows = []
    for bucket in np.unique(bucket_N):
        inside = bucket_N == bucket
        first, last = 2**bucket // 2, positions_N[inside].max()
        rows.append([int(first), int(last), float(nats_N[inside].mean())])
    return rows


@functools.lru_cache(maxsize=8)
def _scores(model):
    return jax.jit(functools.partial(step.scores, model))


def task(name: str, model, params, data: Synthetic, split: str, config) -> dict:
    """EVAL of a test of a task, on rows that no run is trained on."""
    test, rows = data.tests[name], config.eval.rows
    if 0 < model.positions < test.context:
        return {"unavailable": "learned positions end at data.context"}
    empty = step.empty_state(model, params, rows, 0)
    parts = []
    for batch in sharding.over(params, data.held_out(split, name, rows)):
        signals.check()
        nats_BxT, right_BxT = _scores(model)(params, batch, empty)
        parts.append(jax.device_get((nats_BxT, right_BxT, batch.weights)))
    columns = zip(*parts, strict=True)
    nats_NxT, right_NxT, weights_NxT = (
        np.concatenate(c)[: test.held_out] for c in columns
    )
    found = {"protocol": "task", "context": test.context}
    found |= {"size": getattr(test, test.size)}
    found |= graded(nats_NxT, right_NxT, weights_NxT > 0)
    if test.reads_pairs:
        pairs = data.held_out_pairs(split, name)
        found |= per_byte((nats_NxT * (weights_NxT > 0)).sum(1), pairs)
        if split == "test" and test.writes:
            found |= answers.figures(model, params, data.corpus, test, pairs, rows)
    return found


def per_byte(nats_N, pairs) -> dict:
    """Bits a byte of the targets of pairs and their end marks, and of each the nats and
    bytes, as a text's blocks."""
    sizes_N = [len(pair.reference.encode()) + 1 for pair in pairs]
    nats_N = nats_N.astype(np.float64)
    blocks = [[float(nats), size] for nats, size in zip(nats_N, sizes_N, strict=True)]
    bits = float(nats_N.sum()) / sum(sizes_N) / math.log(2)
    return {"bits_per_byte": bits, "blocks": blocks}


def graded(nats_NxT, right_NxT, scored_NxT) -> dict:
    """The figures of rows of a task, of their scored places alone.

    accuracy: of places; exact: of rows, all of whose scored places are right.
    """
    wrong_NxT = scored_NxT & ~right_NxT
    positions_NxT = np.broadcast_to(np.arange(nats_NxT.shape[1]), nats_NxT.shape)
    nats_N, positions_N = nats_NxT[scored_NxT], positions_NxT[scored_NxT]
    right_N = right_NxT[scored_NxT]
    return {
        "rows": len(nats_NxT),
        "tokens": len(nats_N),
        "nats_per_token": float(nats_N.astype(np.float64).mean()),
        "accuracy": float(right_N.mean()),
        "exact": float(1 - wrong_NxT.any(1).mean()),
        "by_position": by_position(nats_N, positions_N),
        "accuracy_by_position": by_position(right_N, positions_N),
    }


PROTOCOLS = {"window": window, "stream": stream}


def protocols(corpus, split: str) -> dict[str, Callable]:
    """{name: (model, params, corpus, split, config) -> EVAL}, the headline first.

    Of a text: the window, and the stream of its test; of a task: its tests.
    """
    if isinstance(corpus, Synthetic):
        return {name: functools.partial(task, name) for name in corpus.tests}
    return PROTOCOLS if split == "test" else {"window": window}


def run(workdir: Path, split: str, names: tuple[str, ...] = ()) -> dict:
    """{protocol: EVAL} of the newest checkpoint of a workdir; by default of all, and of
    a test of pairs what does without a network too, {name: {figure: value}}."""
    stored = json.loads((workdir / "config.json").read_text())
    stored = stored.get("data", {}).get("task")
    known = [SAME, *stored.get("tests", {})] if stored else PROTOCOLS
    for name in names:
        choose("--protocol", name, known)
    config, model, params, corpus = restore.load(workdir)
    trained_on = json.loads((workdir / "data.json").read_text())["fingerprint"]
    if corpus.fingerprint != trained_on:
        raise ConfigError(
            f"the text of {workdir} has changed since (fingerprint {trained_on[:12]}, "
            f"now {corpus.fingerprint[:12]}): restore it"
        )
    found = protocols(corpus, "test")
    figures = {
        name: found[name](model, params, corpus, split, config)
        for name in names or known
    }
    pairs = isinstance(corpus, Synthetic) and corpus.task.reads_pairs
    if pairs and split == "test" and not names:
        figures |= baselines(corpus)
    return figures
