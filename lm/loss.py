"""Cross-entropy and its terms, summed: the caller divides once by the global weight.

Of one token, p being the target (or a distribution), q the softmax of the logits and Z
the sum of their exponentials:

    nats      = -sum_v p(v) log q(v)
    objective = -sum_v p'(v) log q(v) + z_loss (log Z)^2
    p'(v)     = (1 - label_smoothing) p(v) + label_smoothing / V

Beside it stand penalties of the last block's output h, m being the mask of the dropout
before the head (Merity et al. 2018, arXiv 1708.02182 section 4.5):

    ar mean_D((m h_t)^2) + tar mean_D((h_t - h_{t-1})^2)

Label smoothing: Szegedy et al. 2015, arXiv 1512.00567 section 7. z-loss: Chowdhery et
al. 2022 (PaLM), arXiv 2204.02311 section 5.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Bytes of logits a device beyond which they are made chunk by chunk.
CHUNK = 2**26


class Terms(NamedTuple):
    """Coefficients of the objective, numbers or traced; None leaves a term out of it.

    `label_smoothing` is the weight of 1 / V, `z_loss` that of (log Z)^2.
    """

    label_smoothing: Any = None
    z_loss: Any = None


class Penalties(NamedTuple):
    """Coefficients of the penalties of activations, as Terms."""

    ar: Any = None
    tar: Any = None


PLAIN = Terms()


def chosen(config, hyper) -> tuple[Terms, Penalties]:
    """What of config.loss is not 0 there, with the values in `hyper`."""
    given = lambda name: None if config.loss[name] == 0 else getattr(hyper, name)
    return tuple(kind(*map(given, kind._fields)) for kind in (Terms, Penalties))


def logits(x_BxTxD, head_VxD, cap: float = 0.0):
    """x W^T [B, T, V] in float32 or wider, capped."""
    wide = jnp.promote_types(x_BxTxD.dtype, jnp.float32)
    raw = jnp.einsum("btd,vd->btv", x_BxTxD, head_VxD, preferred_element_type=wide)
    return capped(raw, cap)


def capped(raw, cap: float):
    """cap tanh(raw / cap), as of Gemma 2 (arXiv 2408.00118 section 2); 0: as it is."""
    return cap * jnp.tanh(raw / cap) if cap else raw


def nats(logits_BxTxV, targets_BxT):
    """-log p(target) of each token, [B, T], in the dtype of the logits."""
    return _per_token(logits_BxTxV, targets_BxT, PLAIN)[1]


def soft_nats(logits_BxTxV, targets_BxTxV):
    """-sum_v p(v) log q(v) of each token, [B, T], p being the targets."""
    return _per_token(logits_BxTxV, targets_BxTxV, PLAIN)[1]


def summed(logits_BxTxV, targets_BxT, weights_BxT):
    """(weighted sum of nats, sum of weights)."""
    return jnp.sum(nats(logits_BxTxV, targets_BxT) * weights_BxT), jnp.sum(weights_BxT)


def cross_entropy(
    x_BxTxD,
    head_VxD,
    targets_BxT,
    weights_BxT,
    terms=PLAIN,
    chunk: int = CHUNK,
    cap: float = 0.0,
):
    """Sums over all tokens from the logits x W^T, a chunk of which is held at once.

    Args:
      x_BxTxD, head_VxD: hidden states and the head, of one dtype.
      targets_BxT: integers in [0, V).
      chunk: bytes of logits (and of soft targets) on each device.
      cap: of the logits, as of `capped`; a constant.

    Returns:
      (objective, (nats, weights)); without `terms` the first two are the same number.
      The objective alone has gradients, by x, the head and the weights.
    """
    return _summed(x_BxTxD, head_VxD, targets_BxT, weights_BxT, terms, chunk, cap)


def soft_cross_entropy(
    x_BxTxD,
    head_VxD,
    targets_BxTxV,
    weights_BxT,
    terms=PLAIN,
    chunk: int = CHUNK,
    cap: float = 0.0,
):
    """`cross_entropy` against p(v), a teacher's for example, instead of one target.

    The targets are read where they are, a chunk at a time, and have no gradient.
    """
    return _summed(x_BxTxD, head_VxD, targets_BxTxV, weights_BxT, terms, chunk, cap)


def penalty(h_BxTxD, dropped_BxTxD, seq, weights_BxT, penalties: Penalties):
    """The weighted sum of the penalties of all tokens.

    A token that opens a row or a document has no change, nor has padding.
    """
    wide = jnp.promote_types(h_BxTxD.dtype, jnp.float32)
    total = jnp.zeros((), wide)
    size = lambda x: jnp.mean(jnp.square(x.astype(wide)), -1)
    if penalties.ar is not None:
        total += penalties.ar * jnp.sum(weights_BxT * size(dropped_BxTxD))
    if penalties.tar is not None:
        follows = seq.valid[:, 1:] & seq.valid[:, :-1] & ~seq.reset[:, 1:]
        change = size(h_BxTxD[:, 1:] - h_BxTxD[:, :-1])
        total += penalties.tar * jnp.sum(weights_BxT[:, 1:] * follows * change)
    return total


def _per_token(logits, targets, terms: Terms):
    """(objective, nats, log Z) of tokens [...] from logits [..., V].

    Targets are [...], or distributions [..., V].
    """
    log = jax.nn.logsumexp(logits, -1)
    if targets.ndim == logits.ndim:
        nats = log * jnp.sum(targets, -1) - jnp.sum(targets * logits, -1)
    else:
        nats = log - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    objective, (smoothing, z_loss) = nats, terms
    if smoothing is not None:
        uniform = log - jnp.mean(logits, -1)
        objective = (1 - smoothing) * nats + smoothing * uniform
    if z_loss is not None:
        objective += z_loss * jnp.square(log)
    return objective, nats, log


def _slopes(logits_NxV, targets, log_N, terms: Terms, cap: float):
    """The gradient of `_per_token`'s objective by the logits before their cap."""
    V, (smoothing, z_loss) = logits_NxV.shape[-1], terms
    q_NxV, log_Nx1 = jnp.exp(logits_NxV - log_N[:, None]), log_N[:, None]
    if targets.ndim == 2:
        p_NxV, scale = targets, jnp.sum(targets, -1, keepdims=True)
    else:
        p_NxV, scale = targets[:, None] == jnp.arange(V), 1
    if smoothing is not None:
        p_NxV = (1 - smoothing) * p_NxV + smoothing / V
        scale = (1 - smoothing) * scale + smoothing
    if z_loss is not None:
        scale += 2 * z_loss * log_Nx1
    g_NxV = q_NxV * scale - p_NxV
    return g_NxV * (1 - jnp.square(logits_NxV / cap)) if cap else g_NxV


def _summed(x_BxTxD, head_VxD, targets, weights_BxT, terms: Terms, chunk: int, cap):
    (B, T, _), (V, D) = x_BxTxD.shape, head_VxD.shape
    wide = jnp.promote_types(x_BxTxD.dtype, jnp.float32)
    most = chunk * jax.device_count() // wide.itemsize
    targets, terms = jax.lax.stop_gradient((targets, terms))
    if most >= B * T * V:
        logits_BxTxV = logits(x_BxTxD, head_VxD, cap)
        tokens_BxT = _per_token(logits_BxTxV, targets, terms)[:2]
        objective, nats = (jnp.sum(x_BxT * weights_BxT) for x_BxT in tokens_BxT)
    else:
        each = B * V * (2 if targets.ndim == 3 else 1)  # p takes the room of q
        count = -(-T // max(most // each, 1))
        slices = -(-D * V // most)
        inputs = (x_BxTxD, head_VxD, targets, weights_BxT, terms)
        objective, nats = _chunked(count, slices, cap, *inputs)
    return objective, (jax.lax.stop_gradient(nats), jnp.sum(weights_BxT))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunked(
    count: int, slices: int, cap: float, x_BxTxD, head_VxD, targets, weights_BxT, terms
):
    """(objective, nats), summed, with the tokens of each row in `count` parts.

    The gradient is scaled by that of the sum alone, so the forward pass computes it
    while a chunk's logits are there; that of the head in so many slices of its rows
    where it is large, so that no second array of its size comes to be.
    """
    inputs = (x_BxTxD, head_VxD, targets, weights_BxT, terms)
    return _forward(count, slices, cap, *inputs)[0]


def _forward(count, slices, cap, x_BxTxD, head_VxD, targets, weights_BxT, terms):
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

    def distributions(k):
        """[B * size, V] of chunk k; the last token fills the last chunk."""
        tokens_C = jnp.minimum(k * size + jnp.arange(size), T - 1)
        return jnp.take(targets, tokens_C, 1).reshape(B * size, V)

    def at_once(sum_DxV, x_NxD, g_NxV):
        # x is turned apart from the product, which XLA:CPU has a sixth faster so.
        return sum_DxV + times(jax.lax.optimization_barrier(x_NxD.T), g_NxV)

    def in_slices(sum_VxD, x_NxD, g_NxV):
        def add(i, sum_VxD):
            """Rows i * rows to (i + 1) * rows; the last slice begins early."""
            start = jnp.minimum(i * rows, V - rows)
            part_NxR = jax.lax.dynamic_slice_in_dim(g_NxV, start, rows, 1)
            new_R = start + jnp.arange(rows) >= i * rows
            g_RxD = times(jnp.where(new_R, part_NxR, 0).T, x_NxD)
            g_RxD += jax.lax.dynamic_slice_in_dim(sum_VxD, start, rows)
            return jax.lax.dynamic_update_slice_in_dim(sum_VxD, g_RxD, start, 0)

        return jax.lax.fori_loop(0, slices, add, sum_VxD)

    whole = slices == 1
    shape, add = ((D, V), at_once) if whole else ((V, D), in_slices)

    def step(sum_head, inputs):
        x_NxD, these, weights_N = inputs
        logits_NxV = capped(times(x_NxD, head_VxD.T), cap)
        chosen = distributions(these) if soft else these
        objective_N, nats_N, log_N = _per_token(logits_NxV, chosen, terms)
        g_NxV = _slopes(logits_NxV, chosen, log_N, terms, cap) * weights_N[:, None]
        g_NxV = g_NxV.astype(dtype)
        sum_head = add(sum_head, x_NxD, g_NxV)
        return sum_head, (objective_N, nats_N, g_NxV @ head_VxD)

    soft = targets.ndim == 3
    which = jnp.arange(count) if soft else split(targets)
    inputs = (split(x_BxTxD), which, split(weights_BxT))
    zero = jnp.zeros(shape, wide)
    sum_head, (*tokens_KxN, g_KxNxD) = jax.lax.scan(step, zero, inputs)
    sum_VxD = sum_head.T if whole else sum_head
    objective_BxT, nats_BxT = (
        joined(x_KxN).astype(weights_BxT.dtype) for x_KxN in tokens_KxN
    )
    sums = jnp.sum(objective_BxT * weights_BxT), jnp.sum(nats_BxT * weights_BxT)
    return sums, (joined(g_KxNxD), sum_VxD.astype(dtype), objective_BxT)


def _backward(count: int, slices: int, cap: float, residuals, g):
    (x_BxTxD, head_VxD, objective_BxT), (g, _) = residuals, g
    scale, weight = g.astype(x_BxTxD.dtype), g.astype(objective_BxT.dtype)
    return x_BxTxD * scale, head_VxD * scale, None, objective_BxT * weight, None


_chunked.defvjp(_forward, _backward)
