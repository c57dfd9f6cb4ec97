"""Short causal depthwise convolution, by shift and add, aware of documents."""

import jax
import jax.numpy as jnp

from lm.sequence import Sequence


def short(x_BxTxD, kernel_WxD, buffer_BxWxD, seq: Sequence):
    """y_t = sum_i kernel[W - 1 - i] x_{t-i} over the last W valid tokens of a document.

    The valid tokens of a row are contiguous: padding is on the left, right, or both.

    Args:
      kernel_WxD: the last row weighs the current token.
      buffer_BxWxD: the W - 1 valid tokens before this call.

    Returns:
      (y_BxTxD, buffer_BxWxD).
    """
    T, taps = x_BxTxD.shape[1], kernel_WxD.shape[0] - 1
    first_B = jnp.argmax(seq.valid, 1)
    count_B = jnp.sum(seq.valid, 1)
    # The buffer goes right before the first valid token, over the left padding.
    padded_BxSxD = jnp.pad(x_BxTxD, ((0, 0), (taps, 0), (0, 0)))
    place = lambda row, buffer, at: jax.lax.dynamic_update_slice(row, buffer, (at, 0))
    padded_BxSxD = jax.vmap(place)(padded_BxSxD, buffer_BxWxD, first_B)
    y_BxTxD = x_BxTxD * kernel_WxD[taps]
    for i in range(1, taps + 1):
        shifted_BxTxD = padded_BxSxD[:, taps - i : taps - i + T]
        inside_BxTx1 = (seq.positions >= i)[..., None]
        y_BxTxD += jnp.where(inside_BxTx1, shifted_BxTxD, 0) * kernel_WxD[taps - i]
    take = lambda row, at: jax.lax.dynamic_slice(row, (at, 0), (taps, row.shape[-1]))
    return y_BxTxD, jax.vmap(take)(padded_BxSxD, first_B + count_B)
