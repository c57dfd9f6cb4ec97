"""log P of given texts: token by token, in sum, as perplexity and bits per byte.

A text's first token is given and not scored, unless the tokenizer puts a mark of begin
before it. The mean of -log P over the others is the loss that transformers computes
with the text as its own labels.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from lm import evaluate, sequence, signals, step
from lm.config import ConfigError
from lm.data import Batch
from lm.data.encoded import Encoded
from lm.generate.decode import bucket

ROWS = 8  # texts or windows at once


class Scored(NamedTuple):
    """Of a text's tokens but the first, or of those that were asked for.

    Attributes:
      log_p_N: nats, at most 0, float32.
      likeliest_N: bool, whether it is the model's likeliest.
    """

    log_p_N: np.ndarray
    likeliest_N: np.ndarray


@functools.lru_cache(maxsize=8)
def _program(model):
    return jax.jit(functools.partial(step.scores, model))


def log_probs(model, params, texts: list[np.ndarray]) -> list[Scored]:
    """Of each text, its ids given all before them, in any number and length.

    Raises:
      ConfigError: a text longer than learned positions; `strided` has none.
    """
    longest = max(map(len, texts), default=0)
    if model.positions and longest - 1 > model.positions:
        raise ConfigError(
            f"a text of {longest} tokens passes the model's {model.positions} learned "
            "positions: score it in windows, by --context and --stride"
        )
    return _scored(model, params, texts)


def strided(model, params, ids_N: np.ndarray, context: int, stride: int) -> Scored:
    """Of one text in windows of `context` tokens that start `stride` after each other.

    Each token counts once, in the first window that has it, so all but those of the
    first have at least context - stride tokens before them: the less the stride, the
    more there are and the more it costs.

    Raises:
      ConfigError: windows that leave tokens out, or pass learned positions.
    """
    if not 1 <= stride < context:
        raise ConfigError(
            f"--stride={stride} must be at least 1 and below --context={context}, as a "
            "window's first token is not scored"
        )
    if model.positions and context - 1 > model.positions:
        positions = model.positions
        raise ConfigError(
            f"--context={context} passes the model's {positions} learned positions"
        )
    starts, stops = [], []
    for start in range(0, len(ids_N), stride):
        starts.append(start)
        stops.append(min(start + context, len(ids_N)))
        if stops[-1] == len(ids_N):
            break
    windows = [ids_N[a:b] for a, b in zip(starts, stops, strict=True)]
    new = [b - a for a, b in zip([min(1, len(ids_N)), *stops], stops, strict=False)]
    parts = zip(_scored(model, params, windows), new, strict=True)
    parts = [Scored(*(x[len(x) - n :] for x in part)) for part, n in parts]
    return Scored(*map(np.concatenate, zip(*parts, strict=True)))


def _scored(model, params, texts: list[np.ndarray]) -> list[Scored]:
    if not model.causal:
        raise ConfigError(
            "log P of a text is of a model that reads from left to right, and this one "
            "is bidirectional"
        )
    out: list[Scored] = []
    for first in range(0, len(texts), ROWS):
        signals.check()
        group = texts[first : first + ROWS]
        batch = _batch(group, min(ROWS, len(texts)))
        empty = step.empty_state(model, params, len(batch.tokens), 0)
        nats_BxT, right_BxT = jax.device_get(_program(model)(params, batch, empty))
        for b, ids in enumerate(group):
            n = max(0, len(ids) - 1)
            out.append(Scored(-nats_BxT[b, :n], right_BxT[b, :n]))
    return out


def _batch(texts: list[np.ndarray], rows: int) -> Batch:
    """Texts from a fresh state each, padded to `rows` and to a length of few."""
    width = bucket(max(1, *(len(ids) - 1 for ids in texts)))
    tokens_BxT, valid_BxT = sequence.padded([ids[:-1] for ids in texts], width, rows)
    targets_BxT, _ = sequence.padded([ids[1:] for ids in texts], width, rows)
    seq = sequence.from_segments(valid_BxT)
    return Batch(tokens_BxT, targets_BxT, valid_BxT.astype(np.float32), seq)


def of_texts(
    model, params, text, texts: Iterable[str], context: int = 0, stride: int = 0
) -> list[dict]:
    """The figures of each text: those of evaluate.summarise, and "log_p" with "pieces",
    [text, log P] of every token that is scored.

    Args:
      text: what has a `tokenizer` and `begin`: a Corpus, or a lm.interop Text.
      context, stride: of windows, as of `strided`; context 0: each text as a whole;
        stride 0: context - 1, windows that share a token.

    Raises:
      ConfigError: a text of less than two tokens, or as of log_probs and strided.
    """
    encoded = [_encoded(text, words) for words in texts]
    for words, found in zip(texts, encoded, strict=True):
        if len(found.ids) < 2:
            raise ConfigError(
                f"the text {words!r} has {len(found.ids)} tokens, and the first is not "
                "scored: give at least two"
            )
    ids = [found.ids for found in encoded]
    if context:
        scored = [
            strided(model, params, x, context, stride or context - 1) for x in ids
        ]
    else:
        scored = log_probs(model, params, ids)
    return [
        _figures(text.tokenizer, found, log_p)
        for found, (log_p, _) in zip(encoded, scored, strict=True)
    ]


def _encoded(text, words: str) -> Encoded:
    """With the marks of begin, which cover nothing, and the bytes of each token."""
    ids_N, sizes_N = text.tokenizer.encode(words.encode())
    begin = np.array(text.begin, np.int32)
    if sizes_N is None:
        sizes_N = text.tokenizer.bytes_per_token[ids_N]
    return Encoded(np.concatenate([begin, ids_N]), np.concatenate([0 * begin, sizes_N]))


def _figures(tokenizer, found: Encoded, log_p_N) -> dict:
    ids_N, sizes_N = found.ids[1:], found.sizes[1:]
    unknown_N = None if tokenizer.unknown is None else ids_N == tokenizer.unknown
    ones_N, positions_N = np.ones(len(ids_N)), np.arange(len(ids_N))
    whole = evaluate.summarise(-log_p_N, ones_N, positions_N, sizes_N, unknown_N)
    read = lambda i: tokenizer.decode([i]).decode(errors="replace")
    pieces = [[read(i), float(p)] for i, p in zip(ids_N, log_p_N, strict=True)]
    log_p = float(log_p_N.sum(dtype=np.float64))
    return whole | {"log_p": log_p, "pieces": pieces}
