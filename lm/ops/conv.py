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
    padded_BxSxD, buffer_BxWxD = _continued(x_BxTxD, buffer_BxWxD, seq)
    y_NxD = _rows(x_BxTxD) * kernel_WxD[-1]
    if len(kernel_WxD) > 1:
        y_NxD += _rows(_earlier(padded_BxSxD, kernel_WxD[:-1], seq.positions))
    return y_NxD.reshape(x_BxTxD.shape), buffer_BxWxD


def shift(x_BxTxD, buffer_BxD, seq: Sequence):
    """The token before each in its document, and zeros before the first.

    Args:
      buffer_BxD: the valid token before this call.

    Returns:
      (x_prev_BxTxD, buffer_BxD).
    """
    padded_BxSxD, buffer_Bx1xD = _continued(x_BxTxD, buffer_BxD[:, None], seq)
    return _before(padded_BxSxD, 1, seq.positions), buffer_Bx1xD[:, 0]


def _rows(x_BxTxD):
    return x_BxTxD.reshape(-1, x_BxTxD.shape[-1])


def _sum_of_taps(padded_BxSxD, kernel_WxD, positions_BxT):
    """sum_i kernel[W - i] x_{t-i}, i from 1 to W."""
    W = len(kernel_WxD)
    terms_NxD = [
        _rows(_before(padded_BxSxD, i, positions_BxT)) * kernel_WxD[W - i]
        for i in range(1, W + 1)
    ]
    return sum(terms_NxD).reshape(*positions_BxT.shape, -1)


@jax.custom_vjp
def _earlier(padded_BxSxD, kernel_WxD, positions_BxT):
    """`_sum_of_taps`, whose gradient is as one of slices too.

    The transpose of a slice is a pad, which XLA:CPU computes element by element.
    """
    return _sum_of_taps(padded_BxSxD, kernel_WxD, positions_BxT)


def _earlier_forward(padded_BxSxD, kernel_WxD, positions_BxT):
    inputs = (padded_BxSxD, kernel_WxD, positions_BxT)
    return _sum_of_taps(*inputs), inputs


def _earlier_backward(inputs, g_BxTxD):
    padded_BxSxD, kernel_WxD, positions_BxT = inputs
    W, S = len(kernel_WxD), padded_BxSxD.shape[1]
    by_kernel = lambda kernel: _sum_of_taps(padded_BxSxD, kernel, positions_BxT)
    (d_kernel_WxD,) = jax.vjp(by_kernel, kernel_WxD)[1](g_BxTxD)
    # Token s of `padded` is x_{t-i} of t = s - W + i. An update in place, as a pad
    # would end up in each slice.
    around = lambda x: jnp.zeros((len(x), S + W, *x.shape[2:]), x.dtype)
    put = lambda x: jax.lax.dynamic_update_slice_in_dim(around(x), x, W, 1)
    g_wide, positions_wide = put(g_BxTxD), put(positions_BxT)
    terms_BxSxD = []
    for i in range(1, W + 1):
        inside_BxSx1 = (positions_wide[:, i : i + S] >= i)[..., None]
        term_BxSxD = jnp.where(inside_BxSx1, g_wide[:, i : i + S], 0)
        terms_BxSxD.append(term_BxSxD * kernel_WxD[W - i])
    return sum(terms_BxSxD), d_kernel_WxD, None


_earlier.defvjp(_earlier_forward, _earlier_backward)


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


def _before(padded_BxSxD, i: int, positions_BxT):
    """x_{t-i} of each token t, or zeros where that is in another document."""
    T = positions_BxT.shape[1]
    taps = padded_BxSxD.shape[1] - T
    inside_BxTx1 = (positions_BxT >= i)[..., None]
    return jnp.where(inside_BxTx1, padded_BxSxD[:, taps - i : taps - i + T], 0)
