"""Next-token cross-entropy, summed: the caller divides once by the global weight."""

import jax
import jax.numpy as jnp


def nats(logits_BxTxV, targets_BxT):
    """-log p(target) of each token, [B, T], in the dtype of the logits."""
    target_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, -1) - target_BxT


def summed(logits_BxTxV, targets_BxT, weights_BxT):
    """(weighted sum of nats, sum of weights)."""
    return jnp.sum(nats(logits_BxTxV, targets_BxT) * weights_BxT), jnp.sum(weights_BxT)
