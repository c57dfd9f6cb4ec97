"""The next token of a row: the likeliest, or one drawn from what filters leave."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How tokens are drawn; the draws of row b follow (seed, b, position) alone.

    Filters in the order of transformers, each on the probabilities that the one before
    left. A temperature of 0 is greedy.

    Attributes:
      top_k: keeps the k likeliest tokens; 0: all.
      top_p: keeps the fewest likeliest whose probability reaches it: nucleus sampling
        (arXiv 1904.09751).
      min_p: keeps those of at least so much of the likeliest's (arXiv 2407.01082).
      repetition_penalty: divides the positive logits of tokens that are in the prompt
        or the continuation, and multiplies their negative ones (arXiv 1909.05858).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    @property
    def filters(self) -> "Sampling":
        """What a compiled program is made for: all but temperature and seed."""
        return self._replace(temperature=1.0, seed=0)


def choose(logits_BxV, keys_B, temperature, how: Sampling):
    """Ids [B] drawn from softmax(logits / temperature) as `how` filters it, by key."""
    # argmax takes five times as long on a CPU, and drawing as long as a layer.
    greedy = lambda: jax.lax.top_k(logits_BxV, 1)[1][:, 0]
    draw = jax.vmap(jax.random.categorical)
    drawn = lambda: draw(keys_B, filtered(logits_BxV / temperature, how))
    return jax.lax.cond(temperature == 0, greedy, lambda: drawn().astype(jnp.int32))


def filtered(scaled_BxV, how: Sampling):
    """Logits after temperature, -inf where top_k, top_p and min_p leave nothing."""
    V = scaled_BxV.shape[-1]
    if 0 < how.top_k < V or how.top_p < 1:
        order_BxV = jnp.argsort(-scaled_BxV, -1)
        sorted_BxV = jnp.take_along_axis(scaled_BxV, order_BxV, -1)
        if 0 < how.top_k < V:
            sorted_BxV = jnp.where(jnp.arange(V) < how.top_k, sorted_BxV, -jnp.inf)
        probability_BxV = jax.nn.softmax(sorted_BxV, -1)
        before_BxV = jnp.cumsum(probability_BxV, -1) - probability_BxV
        sorted_BxV = jnp.where(before_BxV < how.top_p, sorted_BxV, -jnp.inf)
        rows_Bx1 = jnp.arange(len(order_BxV))[:, None]
        scaled_BxV = scaled_BxV.at[rows_Bx1, order_BxV].set(sorted_BxV)
    if how.min_p > 0:
        least_Bx1 = scaled_BxV.max(-1, keepdims=True) + jnp.log(how.min_p)
        scaled_BxV = jnp.where(scaled_BxV < least_Bx1, -jnp.inf, scaled_BxV)
    return scaled_BxV


def penalised(scores_BxV, seen_BxV, penalty: float):
    """Scores with those of seen tokens made less likely by `penalty`, if above 1."""
    less_BxV = jnp.where(scores_BxV < 0, scores_BxV * penalty, scores_BxV / penalty)
    return jnp.where(seen_BxV, less_BxV, scores_BxV)
