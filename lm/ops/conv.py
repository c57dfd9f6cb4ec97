"""Short causal convolution and token shift, by shift and add, aware of documents.

The valid tokens of a row are contiguous: padding is on the left, right, or both.
"""

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def short(x_BxTxD, kernel_WxD, buffer_BxWxD, seq: Sequence):
    """y_t = sum_i kernel[W - 1 - i] x_{t-i} over the last W valid tokens of a document.

    Args:
      kernel_WxD: the last row weighs the current token.
      buffer_BxWxD: the W - 1 valid tokens before this call.

    Returns:
      (y_BxTxD, buffer_BxWxD).
    """
    taps = kernel_WxD.shape[0] - 1
    padded_BxSxD, buffer_BxWxD = _continued(x_BxTxD, buffer_BxWxD, seq)
    rows = lambda x_BxTxD: x_BxTxD.reshape(-1, x_BxTxD.shape[-1])
    y_NxD = rows(x_BxTxD) * kernel_WxD[taps]
    for i in range(1, taps + 1):
        y_NxD += rows(_before(padded_BxSxD, i, seq)) * kernel_WxD[taps - i]
    return y_NxD.reshape(x_BxTxD.shape), buffer_BxWxD


def shift(x_BxTxD, buffer_BxD, seq: Sequence):
    """The token before each in its document, and zeros before the first.

    Args:
      buffer_BxD: the valid token before this call.

    Returns:
      (x_prev_BxTxD, buffer_BxD).
    """
    padded_BxSxD, buffer_Bx1xD = _continued(x_BxTxD, buffer_BxD[:, None], seq)
    return _before(padded_BxSxD, 1, seq), buffer_Bx1xD[:, 0]


def _continued(x_BxTxD, buffer_BxWxD, seq: Sequence):
    """[B, W + T, D]: x after what came before it, and the last W valid tokens of both.

    The buffer goes right before the first valid token, over the left padding.
    """
    taps = buffer_BxWxD.shape[1]
    first_B = jnp.argmax(seq.valid, 1)
    count_B = jnp.sum(seq.valid, 1)
    padded_BxSxD = jnp.pad(x_BxTxD, ((0, 0), (taps, 0), (0, 0)))
    place = lambda row, buffer, at: jax.lax.dynamic_update_slice(row, buffer, (at, 0))
    padded_BxSxD = jax.vmap(place)(padded_BxSxD, buffer_BxWxD, first_B)
    take = lambda row, at: jax.lax.dynamic_slice(row, (at, 0), (taps, row.shape[-1]))
    return padded_BxSxD, jax.vmap(take)(padded_BxSxD, first_B + count_B)


def _before(padded_BxSxD, i: int, seq: Sequence):
    """x_{t-i} of each token t, or zeros where that is in another document."""
    T = seq.positions.shape[1]
    taps = padded_BxSxD.shape[1] - T
    inside_BxTx1 = (seq.positions >= i)[..., None]
    return jnp.where(inside_BxTx1, padded_BxSxD[:, taps - i : taps - i + T], 0)
