"""The two ends of a model: from tokens to the first block, from the last to the logits.

Parameters are those of the module `lm`, a lm.model.LM, inside its compact call.
"""

from collections.abc import Callable

import jax.numpy as jnp

from lm import dropout, inits, layers
from lm.layers import parameter
from lm.ops import deferred
from lm.sequence import Sequence

OUTPUT_LAYERS = ("linear", "transform")


def norm(lm, name: str, x_BxTxD, seq: Sequence):
    """The model's kind of norm."""
    return layers.NORMS[lm.norm](lm.norm_eps, name=name)(x_BxTxD, seq)


def embedded(lm, tokens_BxT, seq: Sequence):
    """(x_BxTxD, embedding_VxD): tokens, and positions and types where there are any."""
    embedding_VxD = parameter(lm, "embedding", _token_init(lm), _shape(lm), seq)
    x_BxTxD = deferred.looked_up(embedding_VxD.astype(lm.dtype), tokens_BxT)
    if lm.embedding_scale != 1:
        x_BxTxD *= jnp.asarray(lm.embedding_scale, lm.dtype)
    x_BxTxD = dropout.words(x_BxTxD, tokens_BxT, lm.word_dropout, seq)
    init = inits.truncated_normal(0.02, axis=0)
    if lm.positions:
        shape = (lm.positions, lm.width)
        table_TxD = parameter(lm, "positions_embedding", init, shape, seq)
        x_BxTxD += table_TxD.astype(lm.dtype)[seq.positions]
    if lm.token_types:
        shape = (lm.token_types, lm.width)
        table_KxD = parameter(lm, "types_embedding", init, shape, seq)
        x_BxTxD += table_KxD.astype(lm.dtype)[0 if seq.types is None else seq.types]
    if lm.embedding_norm:
        x_BxTxD = norm(lm, "embed_norm", x_BxTxD, seq)
    return lm.embedding_dropout(x_BxTxD, seq, "embedding"), embedding_VxD


def head(lm, x_BxTxD, drop: Callable, embedding_VxD, seq: Sequence):
    """(x_BxTxD, head_VxD): the logits are x W^T; with output_bias both are a feature
    wider, which is 1 in x and the bias in W. `drop` acts on what W reads.

    "transform" is BERT's: norm(gelu(W x + b)), Devlin et al. 2018, arXiv 1810.04805,
    by the tanh form of GELU where the MLPs have that.
    """
    if lm.output_layer == "transform":
        dense = layers.Dense(lm.width, bias=True, name="head_transform")
        kind = lm.block_fields["mlp"]
        gelu = layers.ACTIVATIONS[kind if kind == "gelu" else "gelu_exact"]
        x_BxTxD = gelu(dense(x_BxTxD, seq))
        x_BxTxD = norm(lm, "head_norm", x_BxTxD, seq)
    x_BxTxD, head_VxD = drop(x_BxTxD), embedding_VxD
    if not lm.tied:
        head_VxD = parameter(lm, "head_kernel", _token_init(lm), _shape(lm), seq)
    head_VxD = head_VxD.astype(lm.dtype)
    if lm.output_bias:
        bias_V = parameter(lm, "head_bias", inits.zeros, (lm.vocab_size,), seq)
        bias_Vx1 = bias_V.astype(lm.dtype)[:, None]
        head_VxD = jnp.concatenate([head_VxD, bias_Vx1], -1)
        x_BxTxD = jnp.concatenate([x_BxTxD, jnp.ones_like(x_BxTxD[..., :1])], -1)
    return x_BxTxD, head_VxD


def _shape(lm) -> tuple[int, int]:
    return lm.vocab_size, lm.width


def _token_init(lm) -> Callable:
    return inits.truncated_normal(lm.width**-0.5, axis=0)
