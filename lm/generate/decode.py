"""Tokens after prompts: prefill and single steps through the same mixer call."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm import loss, sequence, sharding, signals
from lm.config import ConfigError
from lm.generate.sampling import Sampling, choose, penalised
from lm.ops.int8 import Int8
from lm.sequence import Sequence
from lm.step import empty_state

BUCKET = 64  # prompts and caches grow in steps of this, so that few shapes compile
PLAIN = Sampling()
PIECE = 512  # tokens of a prompt that go through at once


class Reading(NamedTuple):
    """Where rows stand in their texts.

    Attributes:
      logits_BxV: of the next token, float32 or wider.
      position_B: how many tokens were read.
      state: of the unrolled model; a leaf's leading axis is B.
      seen_BxV: which tokens were read; None: nobody asks.
    """

    logits_BxV: Any
    position_B: Any
    state: Any
    seen_BxV: Any = None


def _hidden(model, params, *inputs):
    return model.apply({"params": params}, *inputs, method="hidden")


def _logits(model, x_BxTxD, head_VxD):
    """[B, V] of the first token of each row."""
    with jax.default_matmul_precision(model.matmul_precision):
        if isinstance(head_VxD, Int8):
            return loss.capped(head_VxD.logits(x_BxTxD), model.logit_cap)[:, 0]
        return loss.logits(x_BxTxD, head_VxD, model.logit_cap)[:, 0]


def prefill(model, params, at: Reading, tokens_BxT, seq, last_B) -> Reading:
    """After one piece of the prompts; the logits of row b change where its last token,
    last_B, counted from the piece's first, is in it."""
    x_BxTxD, head_VxD, state = _hidden(model, params, tokens_BxT, seq, at.state)
    T = tokens_BxT.shape[1]
    at_Bx1x1 = jnp.clip(last_B, 0, T - 1)[:, None, None]
    new_BxV = _logits(model, jnp.take_along_axis(x_BxTxD, at_Bx1x1, 1), head_VxD)
    inside_Bx1 = ((last_B >= 0) & (last_B < T))[:, None]
    logits_BxV = jnp.where(inside_Bx1, new_BxV, at.logits_BxV)
    return at._replace(logits_BxV=logits_BxV, state=state)


def read_token(model, params, at: Reading, token_B) -> Reading:
    """After one more token of each row."""
    B = len(token_B)
    ones_Bx1 = jnp.ones((B, 1), jnp.int32)
    positions_Bx1 = at.position_B[:, None]
    seq = Sequence(ones_Bx1, positions_Bx1, ones_Bx1 == 0, ones_Bx1 == 1)
    x_Bx1xD, head_VxD, state = _hidden(model, params, token_B[:, None], seq, at.state)
    seen_BxV = at.seen_BxV
    if seen_BxV is not None:
        seen_BxV = seen_BxV.at[jnp.arange(B), token_B].set(True)
    logits_BxV = _logits(model, x_Bx1xD, head_VxD)
    return Reading(logits_BxV, at.position_B + 1, state, seen_BxV)


def step(model, filters: Sampling, params, at: Reading, seed, temperature):
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys_B = fold(jax.random.key(seed), jnp.arange(len(at.position_B)))
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, at.position_B)
    scores_BxV = at.logits_BxV
    if at.seen_BxV is not None:
        scores_BxV = penalised(scores_BxV, at.seen_BxV, filters.repetition_penalty)
    token_B = choose(scores_BxV, keys_B, temperature, filters)
    return token_B, read_token(model, params, at, token_B)


@functools.lru_cache(maxsize=8)
def functions(model, filters: Sampling = PLAIN):
    """(prefill, step), jitted, of an unrolled model; a reading is used up.

    prefill(params, reading, tokens_BxT, seq, last_B) -> reading
    step(params, reading, seed, temperature) -> (token_B, reading)
    """
    of_model = functools.partial(prefill, model)
    one = functools.partial(step, model, filters)
    return jax.jit(of_model, donate_argnums=1), jax.jit(one, donate_argnums=1)


def start(model, params, rows: int, capacity: int, seen: bool = False) -> Reading:
    """Before any token.

    Args:
      model, params: unrolled.
      capacity: past tokens that attention keeps.
      seen: whether the tokens to be read are remembered.
    """
    placed = sharding.beside(params)
    wide = jnp.promote_types(model.dtype, jnp.float32)
    zeros = lambda shape, dtype: jnp.zeros(shape, dtype, device=placed)
    return Reading(
        zeros((rows, model.vocab_size), wide),
        zeros(rows, jnp.int32),
        empty_state(model, params, rows, capacity),
        zeros((rows, model.vocab_size), bool) if seen else None,
    )


def extend(model, params, at: Reading, texts: list[np.ndarray]) -> Reading:
    """After these ids too, one or more a row, in pieces of PIECE tokens."""
    lengths_B = np.array([len(text) for text in texts], np.int32)
    width = bucket(int(lengths_B.max()))
    if model.positions:
        width = min(width, model.positions)
    tokens_BxT, valid_BxT = sequence.padded(texts, width)
    position_B = np.asarray(at.position_B)
    place_T = np.arange(width, dtype=np.int32)
    positions_BxT = (position_B[:, None] + place_T) * valid_BxT
    reset_BxT = valid_BxT & (positions_BxT == 0)
    seq = sequence.from_segments(valid_BxT, positions_BxT, reset_BxT)

    through, _ = functions(model)
    for first in range(0, width, PIECE):
        signals.check()
        piece = slice(first, first + PIECE)
        piece_seq = Sequence(*(field[:, piece] for field in seq[:4]))
        last_B = lengths_B - 1 - first
        at = through(params, at, tokens_BxT[:, piece], piece_seq, last_B)
    placed = sharding.beside(params)
    at = at._replace(position_B=jax.device_put(position_B + lengths_B, placed))
    if at.seen_BxV is None:
        return at
    rows_BxT = np.broadcast_to(np.arange(len(texts))[:, None], valid_BxT.shape)
    new = rows_BxT[valid_BxT], tokens_BxT[valid_BxT]
    return at._replace(seen_BxV=at.seen_BxV.at[new].set(True))


def read(
    model, params, prompts: list[np.ndarray], capacity: int, seen: bool = False
) -> Reading:
    """After the prompts alone; arguments as of `start`."""
    at = start(model, params, len(prompts), capacity, seen)
    return extend(model, params, at, prompts)


def bucket(length: int) -> int:
    """`length` rounded up to a multiple of BUCKET, and of PIECE once it is beyond."""
    size = BUCKET if length <= PIECE else PIECE
    return -(-length // size) * size


def prepared(
    model, params, prompts: list[np.ndarray], count: int, how: Sampling
) -> tuple:
    """(unrolled model, its params, Reading) with room for `count` tokens more.

    Raises:
      ConfigError: an empty prompt, more tokens than learned positions, or a model that
        is not causal.
    """
    if not model.causal:
        raise ConfigError(
            "a bidirectional model goes on with no text: fill marks in by run.py fill"
        )
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
    # The cache never overflows: it has a slot for each token of the longest row.
    capacity = bucket(longest + count)
    seen = how.repetition_penalty != 1
    return model, params, read(model, params, prompts, capacity, seen)


def steps(
    model, params, prompts: list[np.ndarray], count: int, how: Sampling
) -> Iterator[jax.Array]:
    """`count` times the next token of every row, [B]; see `continuations`."""
    model, params, at = prepared(model, params, prompts, count, how)
    _, one = functions(model, how.filters)
    for _ in range(count):
        signals.check()
        token_B, at = one(params, at, how.seed, how.temperature)
        yield token_B


def continuations(
    model,
    params,
    prompts: list[np.ndarray],
    count: int,
    how: Sampling,
    ends: Callable[[list[int]], bool] | None = None,
) -> list[np.ndarray]:
    """What follows each prompt, `count` ids, or as many as end it: int32 arrays.

    Args:
      model, params: as trained, or unrolled and int8 (lm/quantize.py); they are
        unrolled here, one leaf a layer.
      prompts: ids, one or more each; they may differ in length.
      ends: whether a continuation ends with its newest token.

    Raises:
      ConfigError: an empty prompt, or more tokens than learned positions.
    """
    made = steps(model, params, prompts, count, how)
    if ends is None:  # no token is waited for
        ids_TxB = np.array(jax.device_get(list(made)), np.int32)
        return list(ids_TxB.reshape(count, len(prompts)).T)
    rows: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for token_B in made:
        token_B = np.asarray(token_B)
        for b in sorted(going):
            rows[b].append(int(token_B[b]))
            if ends(rows[b]):
                going.remove(b)
        if not going:
            break
    return [np.array(row, np.int32) for row in rows]
