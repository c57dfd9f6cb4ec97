"""Text from a model: prefill and single steps through the same mixer call."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm import evaluate, interop, loss, sequence, sharding, signals
from lm.config import ConfigError
from lm.data import Synthetic
from lm.ops.int8 import Int8
from lm.sequence import Sequence
from lm.step import empty_state

BUCKET = 64  # prompts and caches grow in steps of this, so that few shapes compile
PIECE = 512  # tokens of a prompt that go through at once


class Sampling(NamedTuple):
    """How tokens are drawn; the draws of row b follow (seed, b, position) alone.

    temperature 0 is greedy. top_k > 0 keeps the k likeliest tokens; top_p < 1 then
    keeps the fewest likeliest whose probability reaches top_p (arXiv 1904.09751).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def choose(logits_BxV, keys_B, temperature, top_k: int, top_p: float):
    """Ids [B] drawn from softmax(logits / temperature) as `Sampling` says, by key."""
    # argmax takes five times as long on a CPU, and drawing as long as a layer.
    greedy = lambda: jax.lax.top_k(logits_BxV, 1)[1][:, 0]
    drawn = lambda: _draw(logits_BxV / temperature, keys_B, top_k, top_p)
    return jax.lax.cond(temperature == 0, greedy, drawn)


def _draw(scaled_BxV, keys_B, top_k: int, top_p: float):
    V = scaled_BxV.shape[-1]
    if 0 < top_k < V or top_p < 1:
        order_BxV = jnp.argsort(-scaled_BxV, -1)
        sorted_BxV = jnp.take_along_axis(scaled_BxV, order_BxV, -1)
        if 0 < top_k < V:
            sorted_BxV = jnp.where(jnp.arange(V) < top_k, sorted_BxV, -jnp.inf)
        probability_BxV = jax.nn.softmax(sorted_BxV, -1)
        before_BxV = jnp.cumsum(probability_BxV, -1) - probability_BxV
        sorted_BxV = jnp.where(before_BxV < top_p, sorted_BxV, -jnp.inf)
        rows_Bx1 = jnp.arange(len(order_BxV))[:, None]
        scaled_BxV = scaled_BxV.at[rows_Bx1, order_BxV].set(sorted_BxV)
    return jax.vmap(jax.random.categorical)(keys_B, scaled_BxV).astype(jnp.int32)


@functools.lru_cache(maxsize=8)
def functions(model, top_k: int = 0, top_p: float = 1.0):
    """(prefill, step), jitted, of an unrolled model; both are given their state.

    prefill(params, state, logits_BxV, tokens_BxT, seq, last_B) -> (logits_BxV, state):
      one piece of the prompts; the logits of row b change where its last token, last_B,
      counted from the piece's first, is in it.
    step(params, state, logits_BxV, position_B, seed, temperature) ->
      (token_B, logits_BxV, position_B, state).
    """

    def hidden(params, *inputs):
        return model.apply({"params": params}, *inputs, method="hidden")

    def logits(x_BxTxD, head_VxD):
        with jax.default_matmul_precision(model.matmul_precision):
            if isinstance(head_VxD, Int8):
                return head_VxD.logits(x_BxTxD)[:, 0]
            return loss.logits(x_BxTxD, head_VxD)[:, 0]

    def prefill(params, state, logits_BxV, tokens_BxT, seq, last_B):
        x_BxTxD, head_VxD, state = hidden(params, tokens_BxT, seq, state)
        T = tokens_BxT.shape[1]
        at_Bx1x1 = jnp.clip(last_B, 0, T - 1)[:, None, None]
        new_BxV = logits(jnp.take_along_axis(x_BxTxD, at_Bx1x1, 1), head_VxD)
        inside_Bx1 = ((last_B >= 0) & (last_B < T))[:, None]
        return jnp.where(inside_Bx1, new_BxV, logits_BxV), state

    def step(params, state, logits_BxV, position_B, seed, temperature):
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys_B = fold(jax.random.key(seed), jnp.arange(len(position_B)))
        keys_B = jax.vmap(jax.random.fold_in)(keys_B, position_B)
        token_B = choose(logits_BxV, keys_B, temperature, top_k, top_p)
        ones_Bx1 = jnp.ones((len(token_B), 1), jnp.int32)
        seq = Sequence(ones_Bx1, position_B[:, None], ones_Bx1 == 0, ones_Bx1 == 1)
        x_Bx1xD, head_VxD, state = hidden(params, token_B[:, None], seq, state)
        return token_B, logits(x_Bx1xD, head_VxD), position_B + 1, state

    return jax.jit(prefill, donate_argnums=1), jax.jit(step, donate_argnums=1)


def read(model, params, prompts: list[np.ndarray], capacity: int):
    """(logits_BxV, position_B, state) after the prompts, in pieces of PIECE tokens.

    Args:
      model, params: unrolled.
      capacity: past tokens that attention keeps.
    """
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    width = _bucket(int(lengths_B.max()))
    if model.positions:
        width = min(width, model.positions)
    valid_BxT = np.arange(width) < lengths_B[:, None]
    tokens_BxT = np.zeros((len(prompts), width), np.int32)
    tokens_BxT[valid_BxT] = np.concatenate(prompts)
    seq = sequence.from_segments(valid_BxT)

    prefill, _ = functions(model)
    placed = sharding.beside(params)
    state = empty_state(model, params, len(prompts), capacity)
    wide = jnp.promote_types(model.dtype, jnp.float32)
    logits_BxV = jnp.zeros((len(prompts), model.vocab_size), wide, device=placed)
    for first in range(0, width, PIECE):
        signals.check()
        piece = slice(first, first + PIECE)
        piece_seq = Sequence(*(field[:, piece] for field in seq[:4]))
        logits_BxV, state = prefill(
            params,
            state,
            logits_BxV,
            tokens_BxT[:, piece],
            piece_seq,
            lengths_B - 1 - first,
        )
    return logits_BxV, jax.device_put(lengths_B, placed), state


def _bucket(length: int) -> int:
    """`length` rounded up to a multiple of BUCKET, and of PIECE once it is beyond."""
    size = BUCKET if length <= PIECE else PIECE
    return -(-length // size) * size


def continuations(
    model, params, prompts: list[np.ndarray], count: int, how: Sampling
) -> np.ndarray:
    """`count` ids after each prompt, int32 [len(prompts), count].

    Args:
      model, params: as trained, or unrolled and int8 (lm/quantize.py); they are
        unrolled here, one leaf a layer.
      prompts: ids, one or more each; they may differ in length.

    Raises:
      ConfigError: an empty prompt, or more tokens than learned positions.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    if lengths.min() == 0:
        raise ConfigError("a prompt has no token: give at least one character")
    if model.positions and longest + count > model.positions:
        raise ConfigError(
            f"a prompt of {longest} tokens and {count} more pass the model's "
            f"{model.positions} learned positions: shorten the prompt or ask for less"
        )
    model, params = model.unrolled(), model.unstack(params)
    _, step = functions(model, how.top_k, how.top_p)
    # The cache never overflows: it has a slot for each token of the longest row.
    capacity = _bucket(longest + count)
    logits_BxV, position_B, state = read(model, params, prompts, capacity)
    out = []
    for _ in range(count):
        signals.check()
        token_B, logits_BxV, position_B, state = step(
            params, state, logits_BxV, position_B, how.seed, how.temperature
        )
        out.append(token_B)
    ids_TxB = np.array(jax.device_get(out), np.int32)
    return ids_TxB.reshape(count, len(prompts)).T


def text(model, params, corpus, prompts: list[np.ndarray], count: int, how) -> list:
    """Each prompt with its continuation; bytes that are no UTF-8 become U+FFFD."""
    new = continuations(model, params, prompts, count, how)
    both = (np.concatenate(pair) for pair in zip(prompts, new, strict=True))
    return [corpus.decode(ids).decode(errors="replace") for ids in both]


def sample(model, params, corpus, config) -> str:
    """What follows run.prompt, as far as learned positions go: for a person to read."""
    prompt, count = corpus.encode(config.run.prompt), config.run.sample_tokens
    if model.positions:
        prompt = prompt[: model.positions // 2 + 1]
        count = min(count, model.positions - len(prompt))
    how = Sampling(seed=config.seed)
    return text(model, params, corpus, [prompt], count, how)[0]


def run(
    workdir: Path,
    prompts: list[str],
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    n: int,
) -> list[str]:
    """`n` continuations of each prompt by the newest checkpoint of a workdir."""
    _, model, params, corpus = evaluate.load(workdir)
    if isinstance(corpus, Synthetic):
        raise ConfigError(
            f"{workdir} holds a run on {corpus.manifest['source']!r}, which has no "
            "text to go on with: score it by run.py evaluate"
        )
    how = Sampling(temperature, top_k, top_p, seed)
    return several(model, params, corpus, prompts, tokens, how, n)


def run_pretrained(
    source: str, prompts: list[str], tokens: int, how: Sampling, n: int
) -> list[str]:
    """`n` continuations of each prompt by a pretrained model, by its own tokenizer.

    source: a folder in Hugging Face's layout, or a name on its hub.
    """
    _, model, params, folder = interop.from_pretrained(source)
    corpus = interop.tokenizer_of(folder)
    if corpus.tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{folder}: its tokenizer has {corpus.tokenizer.vocab_size} tokens and its "
            f"model {model.vocab_size}: they are not of one checkpoint"
        )
    return several(model, params, corpus, prompts, tokens, how, n)


def several(
    model, params, corpus, prompts: list[str], tokens: int, how: Sampling, n: int
) -> list[str]:
    """`n` continuations of each prompt, those of a prompt one after another.

    Args:
      corpus: what has `encode` and `decode`: a Corpus, or a lm.interop Text.
    """
    ids = [corpus.encode(prompt) for prompt in prompts for _ in range(n)]
    return text(model, params, corpus, ids, tokens, how)
