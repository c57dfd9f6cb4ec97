"""Softmax attention over a cache and the tokens of this call: y_t = sum_s p_ts v_s.

p_ts = exp(e_ts) / (exp(sink) + sum_s exp(e_ts)) over the keys that query t sees, with
e of scaled dot products (arXiv 1706.03762 eq. 1) or additive (arXiv 1409.0473 A.1.2).
The shortest calls hold all e_ts at once; others go through in blocks (blockwise.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm.ops.blockwise import blockwise, product
from lm.ops.kv_cache import Tokens, distance, visible

ADDITIVE_BLOCK = 64  # with a tanh of K features for each of its pairs


class Plan(NamedTuple):
    """By how many query-key pairs of a row a call without `block` goes through.

    Attributes:
      dense: up to so many are held at once.
      rows: up to so many, ROWS blocks of queries, whose size is a multiple of MULTIPLE,
        each see all their keys at once.
      square: queries, and keys, of a block where there are more.
    """

    dense: int
    rows: int
    square: int


ROWS, MULTIPLE = 4, 16
PLANS = {"cpu": Plan(dense=2**12, rows=2**20, square=512)}
# Fewer and larger kernels elsewhere.
OTHERS = Plan(dense=2**18, rows=0, square=256)


def order(T: int, S: int) -> tuple[str, int]:
    """(a name of blockwise.ORDERS or "dense", tokens of a block) of a call."""
    plan = PLANS.get(jax.default_backend(), OTHERS)
    pairs = T * S
    if T == 1 or pairs <= plan.dense:
        return "dense", T
    if pairs <= plan.rows:
        return "rows", MULTIPLE * -(-T // (MULTIPLE * ROWS))
    return "squares", plan.square


def frequencies(half: int, theta: float, scaling: tuple[float, ...], dtype):
    """Radians a token of each pair of features, [half].

    scaling: (factor,) makes all slower by it (arXiv 2306.15595); Llama 3's (factor,
    low, high, original) those that turn less than `low` times in `original` tokens,
    leaves those of more than `high` turns, and goes over in between (arXiv 2407.21783;
    its code has the formula).
    """
    frequency_K = theta ** (-jnp.arange(half, dtype=dtype) / half)
    if not scaling:
        return frequency_K
    factor, *limits = scaling
    if not limits:
        return frequency_K / factor
    low, high, original = limits
    turns_K = original * frequency_K / (2 * jnp.pi)
    kept_K = jnp.clip((turns_K - low) / (high - low), 0, 1)
    return frequency_K * (kept_K + (1 - kept_K) / factor)


def rope(
    x_BxTxHxK,
    positions_BxT,
    theta: float,
    pairing: str = "halves",
    scaling: tuple[float, ...] = (),
):
    """Rotary positions (arXiv 2104.09864): pairs of features turn by an angle.

    pairing: "halves" pairs feature i with i + K / 2, "interleaved" 2 i with 2 i + 1.
    scaling: see `frequencies`.
    """
    half = x_BxTxHxK.shape[-1] // 2
    wide = jnp.promote_types(x_BxTxHxK.dtype, jnp.float32)
    frequency_K = frequencies(half, theta, scaling, wide)
    angle_BxTx1xK = positions_BxT.astype(wide)[..., None, None] * frequency_K
    sin, cos = jnp.sin(angle_BxTx1xK), jnp.cos(angle_BxTx1xK)
    x = x_BxTxHxK.astype(wide)
    if pairing == "halves":
        one, two = jnp.split(x, 2, -1)
    else:
        one, two = x[..., ::2], x[..., 1::2]
    turned = (one * cos - two * sin, two * cos + one * sin)
    if pairing == "halves":
        rotated = jnp.concatenate(turned, -1)
    else:
        rotated = jnp.stack(turned, -1).reshape(x.shape)
    return rotated.astype(x_BxTxHxK.dtype)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """2^(-8 h / H) for h = 1 .. H; other H than powers of two as in arXiv 2108.12409.

    They take the slopes of the power of two below, then every other one of that above.
    """
    power = 2 ** (heads.bit_length() - 1)
    slopes = lambda n: [2.0 ** (-8 * h / n) for h in range(1, n + 1)]
    return tuple(slopes(power) + slopes(2 * power)[::2][: heads - power])


@jax.custom_vjp
def _products(q_BxGxRxTxK, k_BxGxSxK):
    """q k [B, G, R, T, S], in float32 or wider."""
    (B, G, R, T, K), S = q_BxGxRxTxK.shape, k_BxGxSxK.shape[2]
    # With more axes XLA's CPU copies all keys for the product with a lone token.
    q_NxRxK = q_BxGxRxTxK.reshape(B * G, R * T, K)
    logits = product("nrk,nsk->nrs", q_NxRxK, k_BxGxSxK.reshape(B * G, S, K))
    return logits.reshape(B, G, R, T, S)


def _products_forward(q_BxGxRxTxK, k_BxGxSxK):
    return _products(q_BxGxRxTxK, k_BxGxSxK), (q_BxGxRxTxK, k_BxGxSxK)


def _products_backward(saved, slope_BxGxRxTxS):
    q_BxGxRxTxK, k_BxGxSxK = saved
    slope_BxGxRxTxS = slope_BxGxRxTxS.astype(q_BxGxRxTxK.dtype)
    dq_BxGxRxTxK = product("bgrts,bgsk->bgrtk", slope_BxGxRxTxS, k_BxGxSxK)
    # Keys last: a CPU takes three times as long for the sum over t in the other order.
    dk_BxGxKxS = product("bgrtk,bgrts->bgks", q_BxGxRxTxK, slope_BxGxRxTxS)
    dk_BxGxSxK = jnp.swapaxes(dk_BxGxKxS, -1, -2)
    return dq_BxGxRxTxK.astype(q_BxGxRxTxK.dtype), dk_BxGxSxK.astype(k_BxGxSxK.dtype)


_products.defvjp(_products_forward, _products_backward)


def dot(
    _, q_BxGxRxTxK, k_BxGxSxK, distance_BxTxS, scale=1.0, soft_cap=None, slopes=None
):
    """Logits q k scale [B, G, R, T, S], in float32 or wider.

    Args:
      soft_cap: c of c tanh(logits / c) (arXiv 2408.00118 section 2).
      slopes: of the H = G R heads; -slope distance is added (arXiv 2108.12409 eq. 1).
    """
    logits = _products(q_BxGxRxTxK * scale, k_BxGxSxK)
    wide = logits.dtype
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    if slopes is not None:
        slopes_GxRx1x1 = jnp.array(slopes, wide).reshape(*logits.shape[1:3], 1, 1)
        logits -= slopes_GxRx1x1 * distance_BxTxS[:, None, None].astype(wide)
    return logits


def additive(weight_GxK, q_BxGxRxTxK, k_BxGxSxK, distance_BxTxS):
    """Logits v tanh(q_t + k_s) [B, G, R, T, S], in float32 or wider; v is `weight`."""
    wide = jnp.promote_types(q_BxGxRxTxK.dtype, jnp.float32)
    k_BxGx1x1xSxK = k_BxGxSxK[:, :, None, None].astype(wide)
    h_BxGxRxTxSxK = jnp.tanh(q_BxGxRxTxK[..., None, :].astype(wide) + k_BxGx1x1xSxK)
    return jnp.einsum("bgrtsk,gk->bgrts", h_BxGxRxTxSxK, weight_GxK.astype(wide))


def attend(
    q_BxTxHxK,
    k_BxSxGxK,
    v_BxSxGxV,
    query: Tokens,
    key: Tokens,
    *,
    score: Callable = dot,
    weights: Any = None,
    window: int | None = None,
    sinks_H=None,
    block: int | None = None,
    drop: Callable | None = None,
    causal: bool = True,
):
    """y_BxTxHxV, H / G queries to a key-value head (arXiv 2305.13245); 0 for padding.

    The softmax is in float32 or wider.

    Args:
      query, key: see `kv_cache.places`.
      score: (weights, queries, keys, distance) -> logits; `dot`, `additive` or one of
        them with its options bound.
      sinks_H: a logit a head that takes its part of the softmax and has no value.
      block: calls of more tokens go through in squares of so many; by default `order`
        says how.
      drop: acts on the softmax [B, G, H / G, T, S], which is then held at once.
      causal: False: a query sees its whole document, and all pairs are held at once.
    """
    B, T, H, K = q_BxTxHxK.shape
    S, G, V = v_BxSxGxV.shape[1:]
    q_BxGxRxTxK = jnp.moveaxis(q_BxTxHxK.reshape(B, T, G, H // G, K), 1, 3)
    k_BxGxSxK, v_BxGxSxV = (jnp.swapaxes(x, 1, 2) for x in (k_BxSxGxK, v_BxSxGxV))
    sinks_GxR = None if sinks_H is None else sinks_H.reshape(G, H // G)
    inputs = (q_BxGxRxTxK, k_BxGxSxK, v_BxGxSxV, weights, sinks_GxR, query, key)
    form, block = order(T, S) if block is None else ("squares", block)
    if drop is not None or block >= T or not causal:
        y_BxGxRxTxV = dense(score, window, drop, *inputs, causal)
    else:
        y_BxGxRxTxV = blockwise(form, score, window, block, *inputs)
    y_BxTxHxV = jnp.moveaxis(y_BxGxRxTxV, 3, 1).reshape(B, T, H, V)
    return jnp.where((query.document >= 0)[..., None, None], y_BxTxHxV, 0)


def dense(
    score,
    window,
    drop,
    q_BxGxRxTxK,
    k_BxGxSxK,
    v_BxGxSxV,
    weights,
    sinks_GxR,
    query: Tokens,
    key: Tokens,
    causal: bool = True,
):
    """`attend` with all pairs at once: y_BxGxRxTxV."""
    logits_BxGxRxTxS = score(weights, q_BxGxRxTxK, k_BxGxSxK, distance(query, key))
    wide = logits_BxGxRxTxS.dtype
    mask_Bx1x1xTxS = visible(query, key, window, causal)[:, None, None]
    lowest = jnp.finfo(wide).min
    logits_BxGxRxTxS = jnp.where(mask_Bx1x1xTxS, logits_BxGxRxTxS, lowest)
    if sinks_GxR is not None:
        shape = (*logits_BxGxRxTxS.shape[:-1], 1)
        column = jnp.broadcast_to(sinks_GxR[..., None, None].astype(wide), shape)
        logits_BxGxRxTxS = jnp.concatenate([logits_BxGxRxTxS, column], -1)
    softmax_BxGxRxTxS = jax.nn.softmax(logits_BxGxRxTxS, -1)
    softmax_BxGxRxTxS = softmax_BxGxRxTxS[..., : k_BxGxSxK.shape[2]]
    if drop is not None:
        softmax_BxGxRxTxS = drop(softmax_BxGxRxTxS)
    softmax_BxGxRxTxS = softmax_BxGxRxTxS.astype(v_BxGxSxV.dtype)
    y_BxGxRxTxV = product("bgrts,bgsv->bgrtv", softmax_BxGxRxTxS, v_BxGxSxV)
    return y_BxGxRxTxV.astype(v_BxGxSxV.dtype)


def pairs(length: int, window: int | None, causal: bool = True) -> int:
    """Query-key pairs of a row of `length` tokens, those that causality allows."""
    if not causal:
        return length**2
    width = min(length, window or length)
    return width * (width + 1) // 2 + (length - width) * width
