"""What a model makes of whole texts: features, embeddings, words in the place of marks.

For bidirectional models, BERT's (arXiv 1810.04805); a causal one gives features and
embeddings too, of what is before each token.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm import interop, loss, restore, sequence, signals
from lm.data import Synthetic
from lm.errors import ConfigError, choose
from lm.generate.decode import bucket
from lm.step import empty_state

ROWS = 32  # texts at once


class Ids(NamedTuple):
    """A text, or two: ids, int32 [N]; types: int32 [N], 0 of the first, 1 of the
    second, where the model tells them apart."""

    ids: np.ndarray
    types: np.ndarray


class Encoder(NamedTuple):
    """A model that reads whole texts.

    Attributes:
      model, params: as trained.
      text: its tokenizer, a lm.interop Marked.
      pooler: {"kernel", "bias"} of BERT's layer over the first token, or None.
    """

    model: Any
    params: Any
    text: Any
    pooler: dict | None = None


MASK = "[MASK]"  # how a mark is written in a text for a run of ours


class CorpusText:
    """The tokenizer of a run's corpus, as a lm.interop Marked."""

    def __init__(self, corpus, marks: int):
        self._corpus, self.vocab_size = corpus, corpus.vocab_size + marks
        self.mask = MASK if marks else None
        self.mask_id = corpus.vocab_size if marks else None

    def encode(self, text: str, other: None = None):
        """(ids, types), int32 [N]."""
        parts = text.split(MASK) if self.mask else [text]
        ids = [self._corpus.encode(part) for part in parts]
        marked = [np.append(part, self.mask_id) for part in ids[:-1]]
        ids_N = np.concatenate([*marked, ids[-1]]).astype(np.int32)
        return ids_N, np.zeros_like(ids_N)

    def token(self, i: int) -> str:
        """The text of one token."""
        if i == self.mask_id:
            return MASK
        return self._corpus.decode([i]).decode(errors="replace")


def opened(workdir: Path | None = None, pretrained: str | None = None) -> Encoder:
    """The newest checkpoint of a run on a text, or a pretrained encoder.

    Args:
      pretrained: a folder in Hugging Face's layout, or a name on its hub.

    Raises:
      ConfigError: a run without text, a folder as of interop.from_pretrained, or a
        tokenizer that is not the model's.
    """
    if workdir is not None:
        _, model, params, corpus = restore.load(workdir)
        task = corpus.task if isinstance(corpus, Synthetic) else None
        corpus = corpus.corpus if task else corpus
        if corpus is None:
            raise ConfigError(f"{workdir} holds a run on a task without text")
        return Encoder(model, params, CorpusText(corpus, task.marks if task else 0))
    _, model, params, folder = interop.from_pretrained(pretrained)
    text = interop.marked(folder)
    if text.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{folder}: its tokenizer has {text.vocab_size} tokens and its model "
            f"{model.vocab_size}: they are not of one checkpoint"
        )
    return Encoder(model, params, text, interop.pooler(folder))


@functools.lru_cache(maxsize=8)
def _features(model):
    def run(params, tokens_BxT, seq, state):
        found = model.apply(
            {"params": params}, tokens_BxT, seq, state, method="activations"
        )
        (x_BxTxD, head_VxD, _), (h_BxTxD, _) = found
        return h_BxTxD, x_BxTxD, head_VxD

    return run


@functools.lru_cache(maxsize=8)
def _hidden(model):
    run = _features(model)
    return jax.jit(lambda *inputs: run(*inputs)[0])


@functools.lru_cache(maxsize=8)
def _at(model):
    """Logits [N, V] of places [N] of a batch."""
    run = _features(model)

    def logits(params, tokens_BxT, seq, state, row_N, place_N):
        _, x_BxTxD, head_VxD = run(params, tokens_BxT, seq, state)
        with jax.default_matmul_precision(model.matmul_precision):
            chosen_1xNxD = x_BxTxD[row_N, place_N][None]
            return loss.logits(chosen_1xNxD, head_VxD, model.logit_cap)[0]

    return jax.jit(logits)


def features(model, params, texts: Iterable[Ids]) -> list[np.ndarray]:
    """[N, D] of each text: what the last block gives of each of its tokens.

    Raises:
      ConfigError: a text without a token, or with more than learned positions.
    """
    texts, out = list(texts), []
    for group in _groups(model, texts):
        hidden_BxTxD = _hidden(model)(params, *_batch(model, params, group))
        for text, row_TxD in zip(group, jax.device_get(hidden_BxTxD), strict=False):
            out.append(np.asarray(row_TxD[: len(text.ids)], np.float32))
    return out


def _mean(features_NxD, _):
    return features_NxD.mean(0)


def _first(features_NxD, _):
    return features_NxD[0]


def _pooled(features_NxD, pooler):
    if pooler is None:
        raise ConfigError("pool='pooled': the model has no pooler; take mean or first")
    return np.tanh(features_NxD[0] @ pooler["kernel"] + pooler["bias"])


POOLS = {"mean": _mean, "first": _first, "pooled": _pooled}


def embeddings(
    encoder: Encoder, texts: list[str], pool: str = "mean", unit: bool = True
) -> np.ndarray:
    """float32 [n, D], a row for each text.

    Args:
      pool: "mean" of all tokens, marks included, as sentence-transformers has it
        (arXiv 1908.10084); the "first" token; or BERT's "pooled" one.
      unit: whether rows have length 1.

    Raises:
      ConfigError: as of `features`, an unknown pool, or a pooler that is not there.
    """
    choose("pool", pool, POOLS)
    model, params, text, pooler = encoder
    found = features(model, params, [Ids(*text.encode(t)) for t in texts])
    rows_nxD = np.stack([POOLS[pool](x, pooler) for x in found])
    if unit:
        rows_nxD /= np.linalg.norm(rows_nxD, axis=1, keepdims=True).clip(1e-12)
    return rows_nxD


class Filled(NamedTuple):
    """What may stand in the place of a mark: text, and its probability."""

    text: str
    probability: float


def fill(encoder: Encoder, text: str, k: int = 5) -> list[list[Filled]]:
    """The `k` likeliest tokens in the place of each mark of a text, the best first.

    Each mark is filled as if the others stayed, as the model was trained.

    Raises:
      ConfigError: a text without a mark, or as of `features`.
    """
    model, params, tokenizer, _ = encoder
    ids = Ids(*tokenizer.encode(text))
    place_N = np.flatnonzero(ids.ids == tokenizer.mask_id)
    if not len(place_N):
        mark = tokenizer.mask or f"{MASK}, nor the model one"
        raise ConfigError(f"the text {text!r} has no {mark}: write one")
    (group,) = _groups(model, [ids])
    row_N = np.zeros_like(place_N)
    inputs = _batch(model, params, group)
    logits_NxV = _at(model)(params, *inputs, row_N, place_N)
    k = min(k, model.vocab_size)
    p_NxK, token_NxK = jax.device_get(jax.lax.top_k(jax.nn.softmax(logits_NxV), k))
    pairs = lambda p_K, token_K: zip(token_K.tolist(), p_K.tolist(), strict=True)
    return [
        [Filled(tokenizer.token(i), p) for i, p in pairs(p_K, token_K)]
        for p_K, token_K in zip(p_NxK, token_NxK, strict=True)
    ]


def _groups(model, texts: list[Ids]) -> list[list[Ids]]:
    lengths = [len(text.ids) for text in texts]
    if lengths and min(lengths) < 1:
        raise ConfigError("a text has no token: give at least one character")
    if model.positions and lengths and max(lengths) > model.positions:
        raise ConfigError(
            f"a text of {max(lengths)} tokens passes the model's {model.positions} "
            "learned positions: cut it"
        )
    return [texts[i : i + ROWS] for i in range(0, len(texts), ROWS)]


def _batch(model, params, texts: list[Ids]):
    """(tokens_BxT, seq, state) of texts, padded."""
    signals.check()
    B = ROWS if len(texts) > 1 else 1
    width = bucket(max(len(text.ids) for text in texts))
    tokens_BxT, valid_BxT = sequence.padded([text.ids for text in texts], width, B)
    types_BxT, _ = sequence.padded([text.types for text in texts], width, B)
    seq = sequence.from_segments(valid_BxT)
    if model.token_types:
        seq = seq._replace(types=types_BxT)
    return tokens_BxT, seq, empty_state(model, params, B, 0)
