"""What a model makes of held-out text: nats, bits per byte, loss by position.

Two protocols. `window`: the state is reset at each window, so every arm has equal
information; the headline. `stream`: the recurrent state, or an attention cache of a
stated size, is carried through the text.
"""

import functools
import math
from pathlib import Path

import jax
import numpy as np

from lm import config as configs
from lm import step
from lm.data import prepare, stream_batches, window_batches

BLOCK = 2_000  # tokens; the unit of the bootstrap over text


@functools.lru_cache(maxsize=8)
def _forward(model):
    return jax.jit(functools.partial(step.forward, model))


def window(model, params, corpus, split: str, config) -> dict:
    """EVAL of a split, state reset at each window of data.context tokens."""
    rows, context = config.eval.rows, config.data.context
    empty = model.initial_state(rows, 0)
    parts = []
    for batch in window_batches(corpus, split, context, rows):
        nats_BxT, _ = _forward(model)(params, batch, empty)
        parts.append((batch, np.asarray(nats_BxT)))
    # Rows of a batch follow each other in the text.
    text = [_flat(batch, nats_BxT, axis=None) for batch, nats_BxT in parts]
    joined = [np.concatenate(column) for column in zip(*text, strict=True)]
    return {"protocol": "window", "context": context, "cache": 0} | summarise(
        *joined, corpus.bytes_per_token
    )


def stream(model, params, corpus, split: str, config) -> dict:
    """EVAL of a split read in eval.rows lanes whose state is carried to their end.

    An attention cache holds eval.stream_chunk past tokens, so a query sees between one
    and two chunks; learned positions end at the context and cannot be carried past it.
    """
    if model.positions:
        return {"unavailable": "learned positions end at data.context"}
    rows, chunk = config.eval.rows, config.eval.stream_chunk
    state = model.initial_state(rows, chunk)
    lanes = []
    for batch in stream_batches(corpus, split, chunk, rows):
        nats_BxT, state = _forward(model)(params, batch, state)
        lanes.append(_flat(batch, np.asarray(nats_BxT), axis=1))
    columns = zip(*lanes, strict=True)
    joined = [np.concatenate(column, axis=1).reshape(-1) for column in columns]
    return {"protocol": "stream", "context": chunk, "cache": chunk} | summarise(
        *joined, corpus.bytes_per_token
    )


def _flat(batch, nats_BxT, axis: int | None):
    columns = (nats_BxT, batch.weights, batch.targets, batch.seq.positions)
    return columns if axis else tuple(column.reshape(-1) for column in columns)


def summarise(nats_N, weights_N, targets_N, positions_N, bytes_per_token_V) -> dict:
    """The figures of tokens in the order of the text; weight 0 leaves a token out."""
    kept = weights_N > 0
    nats_N = nats_N[kept].astype(np.float64)
    bytes_N = np.asarray(bytes_per_token_V)[targets_N[kept]].astype(np.int64)
    positions_N = positions_N[kept]
    edges = range(0, len(nats_N), BLOCK)
    per_token = nats_N.mean()
    return {
        "tokens": len(nats_N),
        "bytes": int(bytes_N.sum()),
        "nats": float(nats_N.sum()),
        "nats_per_token": float(per_token),
        "bits_per_byte": float(nats_N.sum() / bytes_N.sum() / math.log(2)),
        "perplexity": float(np.exp(per_token)),
        "by_position": by_position(nats_N, positions_N),
        "blocks": [
            [float(nats_N[i : i + BLOCK].sum()), int(bytes_N[i : i + BLOCK].sum())]
            for i in edges
        ],
    }


def by_position(nats_N, positions_N) -> list:
    """[first, last, nats a token] of positions 0, 1, 2-3, 4-7, ... in the document."""
    bucket_N = np.where(positions_N > 0, np.log2(np.maximum(positions_N, 1)) + 1, 0)
    bucket_N = bucket_N.astype(int)
    rows = []
    for bucket in np.unique(bucket_N):
        first = 0 if bucket == 0 else 2 ** (bucket - 1)
        last = 0 if bucket == 0 else 2**bucket - 1
        rows.append([int(first), int(last), float(nats_N[bucket_N == bucket].mean())])
    return rows


PROTOCOLS = {"window": window, "stream": stream}


def run(workdir: Path, split: str, protocols: tuple[str, ...]) -> dict:
    """{protocol: EVAL} of the newest checkpoint of a workdir."""
    config, model, params, corpus = load(workdir)
    return {
        name: PROTOCOLS[name](model, params, corpus, split, config)
        for name in protocols
    }


def load(workdir: Path):
    """(config, model, params, corpus) of the newest checkpoint of a workdir."""
    from lm import count, model
    from lm.checkpoint import Checkpoints

    config = configs.from_json((workdir / "config.json").read_text())
    corpus = prepare(config.data)
    built = model.build(config, corpus.vocab_size)
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep)
    latest = checkpoints.latest()
    if latest is None:
        raise configs.ConfigError(f"{workdir} has no checkpoint yet: train it first")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        count.abstract_params(built),
    )
    params = checkpoints.restore_params(latest, abstract)
    checkpoints.close()
    return config, built, params, corpus
