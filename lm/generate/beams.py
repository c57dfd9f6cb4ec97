"""Beam search: the likeliest continuations that a list of a few finds."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm import signals
from lm.generate.decode import Reading, prepared, read_token
from lm.generate.sampling import Sampling, penalised

NEVER = -1e9  # of a beam that is not there; finite, for its sum with a log P


class Found(NamedTuple):
    """ids: int32 [N]; score: log P of them, divided by N ** length_penalty."""

    ids: np.ndarray
    score: float


class Beams(NamedTuple):
    """How transformers searches, by its names.

    Attributes:
      num_beams: continuations of a prompt that are followed side by side.
      length_penalty: above 0 prefers longer ones, below 0 shorter.
      early_stopping: whether a prompt is done once num_beams continuations have ended,
        or when none that is followed has a better score than the worst of these.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False


class _Search:
    """The beams of one prompt, on the host: what is followed and what has ended."""

    def __init__(self, how: Beams):
        self.how = how
        self.running = [([], 0.0)] + [([], NEVER)] * (how.num_beams - 1)
        self.ended: list[Found] = []
        self.done = False

    def take(self, candidates, last: bool, ends: Callable) -> tuple[list, list]:
        """(which beam each new one goes on from, its token), given the best candidates:
        (score, beam, token), the best first; `last`: no token may follow."""
        n, kept = self.how.num_beams, []
        for rank, (score, beam, token) in enumerate(candidates):
            if score < NEVER / 2:
                break
            ids = [*self.running[beam][0], token]
            if not (last or ends(ids)):
                kept.append((ids, score, beam))
            elif rank < n and not self.done:
                per_token = score / len(ids) ** self.how.length_penalty
                self.ended.append(Found(np.array(ids, np.int32), per_token))
        self.ended.sort(key=lambda found: -found.score)
        del self.ended[n:]
        kept = kept[:n]
        kept += [([], NEVER, 0)] * (n - len(kept))
        self.running = [(ids, score) for ids, score, _ in kept]
        self.done |= last or self._settled()
        return [beam for *_, beam in kept], [ids[-1] if ids else 0 for ids, *_ in kept]

    def _settled(self) -> bool:
        if len(self.ended) < self.how.num_beams:
            return False
        ids, score = self.running[0]
        best = score / max(1, len(ids)) ** self.how.length_penalty
        return self.how.early_stopping or best <= self.ended[-1].score


@functools.partial(jax.jit, static_argnames=("penalty", "kept"))
def _candidates(at: Reading, score_PxN, *, penalty: float, kept: int):
    """(score_PxK, beam_PxK, token_PxK) of the `kept` best next tokens of P prompts,
    the best first, where P prompts of N beams are the rows of `at`."""
    P, N = score_PxN.shape
    log_p_BxV = jax.nn.log_softmax(at.logits_BxV)
    if at.seen_BxV is not None:
        log_p_BxV = penalised(log_p_BxV, at.seen_BxV, penalty)
    V = log_p_BxV.shape[-1]
    total_PxNxV = log_p_BxV.reshape(P, N, V) + score_PxN[..., None]
    score_PxK, place_PxK = jax.lax.top_k(total_PxNxV.reshape(P, N * V), kept)
    return score_PxK, place_PxK // V, place_PxK % V


@functools.lru_cache(maxsize=8)
def _advance(model):
    """(params, reading, row_B, token_B) -> reading: row b goes on from row_B[b]."""

    def advance(params, at: Reading, row_B, token_B):
        return read_token(model, params, jax.tree.map(lambda x: x[row_B], at), token_B)

    return jax.jit(advance, donate_argnums=1)


def search(
    model,
    params,
    prompts: list[np.ndarray],
    count: int,
    how: Beams,
    repetition_penalty: float = 1.0,
    ends: Callable[[list[int]], bool] = lambda ids: False,
    marks: int = 1,
) -> list[list[Found]]:
    """The num_beams best continuations of each prompt, the best first.

    Args:
      model, params, prompts, count, ends: as of `decode.continuations`.
      marks: how many tokens may end a continuation; 1 + marks candidates a beam are
        looked at, so that as many as there are beams can go on.
    """
    N = how.num_beams
    sampling = Sampling(repetition_penalty=repetition_penalty)
    model, params, at = prepared(model, params, prompts, count, sampling)
    kept = min((1 + max(1, marks)) * N, N * model.vocab_size)
    candidates = functools.partial(_candidates, penalty=repetition_penalty, kept=kept)
    at = jax.tree.map(lambda x: jnp.repeat(x, N, 0), at)
    searches = [_Search(how) for _ in prompts]
    for t in range(count):
        signals.check()
        score_PxN = np.array(
            [[score for _, score in s.running] for s in searches], np.float32
        )
        found = [x.tolist() for x in jax.device_get(candidates(at, score_PxN))]
        rows, tokens = [], []
        for p, search in enumerate(searches):
            best = list(zip(*(column[p] for column in found), strict=True))
            beams, chosen = search.take(best, t == count - 1, ends)
            rows += [p * N + beam for beam in beams]
            tokens += chosen
        if all(search.done for search in searches):
            break
        at = _advance(model)(params, at, np.array(rows), np.array(tokens, np.int32))
    return [search.ended for search in searches]
