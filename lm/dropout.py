"""Dropout: what a training step draws anew, by (seed, step, row, layer, role).

Keys are of rows, so neither micro-batches nor devices move a mask; what all rows share,
such as weights, is masked by the key of the step. What is kept is scaled by 1 / (1 -
rate). Without keys, or with a single one, as at initialisation, nothing is dropped.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.layers import fold
from lm.sequence import Sequence

# model.dropout_mask -> shape of the mask of a row [T, ...]. One for all tokens of the
# row, whatever its documents: Gal and Ghahramani 2016, arXiv 1512.05287.
MASKS: dict[str, Callable] = {
    "token": lambda shape: shape,
    "sequence": lambda shape: (1, *shape[1:]),
}


class Dropout(NamedTuple):
    """Dropout of features: of x [B, T, ...] with one mask a row; `mask` is of MASKS."""

    rate: float = 0.0
    mask: str = "token"

    def __call__(self, x, seq: Sequence, role: str):
        if self.rate == 0 or not _training(seq):
            return x
        shape = MASKS[self.mask](x.shape[1:])
        keep = lambda key: jax.random.bernoulli(key, 1 - self.rate, shape)
        return _kept(x, jax.vmap(keep)(_folded(seq.key, seq, role)), self.rate)


def words(x_BxTxD, tokens_BxT, rate: float, seq: Sequence):
    """Drops words of the vocabulary: a row loses a token at all its places or at none.

    Gal and Ghahramani 2016, arXiv 1512.05287 section 4.2, as dropped rows of the
    embedding.
    """
    if rate == 0 or not _training(seq):
        return x_BxTxD

    def keep(key, token):
        return jax.random.bernoulli(jax.random.fold_in(key, token), 1 - rate)

    keys_B = _folded(seq.key, seq, "word")
    keep_BxT = jax.vmap(jax.vmap(keep, (None, 0)))(keys_B, tokens_BxT)
    return _kept(x_BxTxD, keep_BxT[..., None], rate)


def connections(kernel, rate: float, seq: Sequence, role: str):
    """DropConnect: drops entries of a matrix, the same for every row and token.

    Wan et al. 2013; on recurrent weights: Merity et al. 2018, arXiv 1708.02182.
    """
    if rate == 0 or seq.step_key is None:
        return kernel
    key = _folded(seq.step_key, seq, role)
    return _kept(kernel, jax.random.bernoulli(key, 1 - rate, kernel.shape), rate)


def _training(seq: Sequence) -> bool:
    return seq.key is not None and seq.key.ndim > 0


def _folded(key, seq: Sequence, role: str):
    return fold(key, 0 if seq.layer is None else seq.layer, role)


def _kept(x, keep, rate: float):
    return jnp.where(keep, x / (1 - rate), 0)
