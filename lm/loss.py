"""Next-token cross-entropy, summed: the caller divides once by the global weight."""

import functools

import jax
import jax.numpy as jnp

# Bytes of logits a device beyond which they are made chunk by chunk.
CHUNK = 2**26


def logits(x_BxTxD, head_VxD):
    """x W^T [B, T, V] in float32 or wider."""
    wide = jnp.promote_types(x_BxTxD.dtype, jnp.float32)
    return jnp.einsum("btd,vd->btv", x_BxTxD, head_VxD, preferred_element_type=wide)


def nats(logits_BxTxV, targets_BxT):
    """-log p(target) of each token, [B, T], in the dtype of the logits."""
    target_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, -1) - target_BxT


def summed(logits_BxTxV, targets_BxT, weights_BxT):
    """(weighted sum of nats, sum of weights)."""
    return jnp.sum(nats(logits_BxTxV, targets_BxT) * weights_BxT), jnp.sum(weights_BxT)


def cross_entropy(x_BxTxD, head_VxD, targets_BxT, weights_BxT, chunk: int = CHUNK):
    """`summed` of the logits x W^T, of which no more than a chunk is held at once.

    Args:
      x_BxTxD, head_VxD: hidden states and the head, of one dtype.
      chunk: bytes of logits on each device.
    """
    (B, T, _), (V, D) = x_BxTxD.shape, head_VxD.shape
    wide = jnp.promote_types(x_BxTxD.dtype, jnp.float32)
    most = chunk * jax.device_count() // wide.itemsize
    if most >= B * T * V:
        return summed(logits(x_BxTxD, head_VxD), targets_BxT, weights_BxT)
    count = -(-T // max(most // (B * V), 1))
    slices = -(-D * V // most)
    inputs = (x_BxTxD, head_VxD, targets_BxT, weights_BxT)
    return _chunked(count, slices, *inputs), jnp.sum(weights_BxT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(count: int, slices: int, x_BxTxD, head_VxD, targets_BxT, weights_BxT):
    """The sum of nats with the tokens of each row in `count` parts.

    Its gradient is scaled by that of the sum alone, so the forward pass computes it
    while a chunk's logits are there; that of the head in so many slices of its rows, so
    that no second array of its size comes to be.
    """
    return _forward(count, slices, x_BxTxD, head_VxD, targets_BxT, weights_BxT)[0]


def _forward(count: int, slices: int, x_BxTxD, head_VxD, targets_BxT, weights_BxT):
    (B, T, D), V, dtype = x_BxTxD.shape, len(head_VxD), x_BxTxD.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    times = functools.partial(jnp.matmul, preferred_element_type=wide)
    size, rows = -(-T // count), -(-V // slices)

    def split(x):
        """[B, T, ...] -> [count, B * size, ...]; what fills the last has weight 0."""
        x = jnp.pad(x, ((0, 0), (0, count * size - T)) + ((0, 0),) * (x.ndim - 2))
        x = jnp.moveaxis(x.reshape(B, count, size, *x.shape[2:]), 1, 0)
        return x.reshape(count, B * size, *x.shape[3:])

    def joined(x):
        x = jnp.moveaxis(x.reshape(count, B, size, *x.shape[2:]), 0, 1)
        return x.reshape(B, count * size, *x.shape[3:])[:, :T]

    def step(sum_VxD, inputs):
        x_NxD, targets_N, weights_N = inputs
        logits_NxV = times(x_NxD, head_VxD.T)
        log_Nx1 = jax.nn.logsumexp(logits_NxV, -1, keepdims=True)
        target_Nx1 = jnp.take_along_axis(logits_NxV, targets_N[:, None], -1)
        hot_NxV = targets_N[:, None] == jnp.arange(V)
        g_NxV = (jnp.exp(logits_NxV - log_Nx1) - hot_NxV) * weights_N[:, None]
        g_NxV = g_NxV.astype(dtype)

        def add(i, sum_VxD):
            """Rows i * rows to (i + 1) * rows; the last slice begins early."""
            start = jnp.minimum(i * rows, V - rows)
            part_NxR = jax.lax.dynamic_slice_in_dim(g_NxV, start, rows, 1)
            new_R = start + jnp.arange(rows) >= i * rows
            g_RxD = times(jnp.where(new_R, part_NxR, 0).T, x_NxD)
            g_RxD += jax.lax.dynamic_slice_in_dim(sum_VxD, start, rows)
            return jax.lax.dynamic_update_slice_in_dim(sum_VxD, g_RxD, start, 0)

        sum_VxD = jax.lax.fori_loop(0, slices, add, sum_VxD)
        return sum_VxD, ((log_Nx1 - target_Nx1)[:, 0], g_NxV @ head_VxD)

    inputs = (split(x_BxTxD), split(targets_BxT), split(weights_BxT))
    zero_VxD = jnp.zeros((V, D), wide)
    sum_VxD, (nats_KxN, g_KxNxD) = jax.lax.scan(step, zero_VxD, inputs)
    nats_BxT = joined(nats_KxN).astype(weights_BxT.dtype)
    return jnp.sum(nats_BxT * weights_BxT), (
        joined(g_KxNxD),
        sum_VxD.astype(dtype),
        nats_BxT,
    )


def _backward(count: int, slices: int, residuals, g):
    x_BxTxD, head_VxD, nats_BxT = residuals
    scale = g.astype(x_BxTxD.dtype)
    return x_BxTxD * scale, head_VxD * scale, None, nats_BxT * g.astype(nats_BxT.dtype)


_chunked.defvjp(_forward, _backward)
