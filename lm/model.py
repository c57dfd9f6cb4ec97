"""LM: embedding -> blocks of a repeated pattern, scanned -> norm -> head -> logits."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from lm import ends, loss, sequence
from lm.blocks import BLOCKS, Block
from lm.dropout import Dropout
from lm.layers import parameter
from lm.mixers import MIXERS, Mixer
from lm.sequence import Sequence

_remat = functools.partial(nn.remat, prevent_cse=False)
REMAT: dict[str, Callable] = {
    "none": lambda module: module,
    "full": functools.partial(_remat, policy=jax.checkpoint_policies.nothing_saveable),
    "dots": functools.partial(
        _remat, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}

# Layers up to which the scan is written out, by backend: a loop over layers stores and
# loads what its backward pass needs in stacks, an eighth of a step on a CPU, but is
# compiled in a time that depth does not enter.
WRITTEN_OUT = {"cpu": 8}


class Unit(nn.Module):
    """One repeat of the pattern: the body of the scan over layers."""

    make_blocks: tuple[Callable[..., Block], ...]
    first_layer: int

    @nn.compact
    def __call__(self, values, seq: Sequence, states, repeat):
        x_BxTxD, carry = values
        new_states = []
        for j, make_block in enumerate(self.make_blocks):
            layer = self.first_layer + repeat * len(self.make_blocks) + j
            block = make_block(name=f"block_{j}")
            x_BxTxD, state, carry = block(
                x_BxTxD, seq._replace(layer=layer), states[j], carry
            )
            new_states.append(state)
        return (x_BxTxD, carry), tuple(new_states)


class LM(nn.Module):
    """A language model over a pattern of mixers, causal where all of them are.

    Attributes:
      make_mixer: name in the pattern -> constructor of the mixer.
      block: a key of BLOCKS; block_fields: its fields, but for its mixer.
      prefix, pattern, repeats, tail: the layers are prefix + pattern * repeats + tail;
        the repeats are one scan, whose parameters are stacked on a leading axis R.
      positions: rows of the learned position table; 0: there is none.
      token_types: rows of a table that is added by Sequence.types; 0: there is none.
      embedding_norm: whether the sum of these embeddings is normed.
      embedding_scale: what a token's embedding is multiplied by.
      logit_cap: c of c tanh(logits / c); 0: they are as they are.
      output_layer: "linear", or BERT's "transform": a layer, GELU and a norm first.
      output_bias: whether logits have a bias.
      remat: a key of REMAT: what the backward pass computes again.
    """

    vocab_size: int
    width: int
    make_mixer: Mapping[str, Callable[..., Mixer]]
    block: str
    block_fields: Mapping[str, Any]
    prefix: tuple[str, ...]
    pattern: tuple[str, ...]
    repeats: int
    tail: tuple[str, ...]
    norm: str
    norm_eps: float
    positions: int
    token_types: int
    embedding_norm: bool
    embedding_scale: float
    logit_cap: float
    output_layer: str
    output_bias: bool
    tied: bool
    word_dropout: float
    embedding_dropout: Dropout
    output_dropout: Dropout
    dtype: Any
    matmul_precision: str
    remat: str

    @property
    def layers(self) -> tuple[str, ...]:
        """The mixer's name of every layer."""
        return self.prefix + self.pattern * self.repeats + self.tail

    @property
    def causal(self) -> bool:
        """Whether what it says of a token depends on those before it alone."""
        return all(self.mixer(name).causal for name in dict.fromkeys(self.layers))

    def mixer(self, name: str) -> Mixer:
        """An unbound mixer, for its state and its costs."""
        return self.make_mixer[name](parent=None)

    def _make_block(self, name: str, remat: str = "none") -> Callable[..., Block]:
        """The constructor of the block around mixer `name`."""
        kind = REMAT[remat](BLOCKS[self.block])
        return functools.partial(kind, self.make_mixer[name], **self.block_fields)

    def _block(self, name: str) -> Block:
        """An unbound block around mixer `name`, for its state and its costs."""
        return self._make_block(name)(parent=None)

    def context_flops(self, length: int) -> int:
        """The sum over the layers of what Mixer.context_flops says of one."""
        return sum(self._block(name).context_flops(length) for name in self.layers)

    def initial_state(self, batch: int, capacity: int):
        """States before any token; `capacity`: past tokens that attention keeps."""
        state = lambda name: self._block(name).initial_state(batch, capacity)
        stack = lambda x: jnp.broadcast_to(x, (self.repeats, *x.shape))
        return {
            "prefix": tuple(map(state, self.prefix)),
            "units": tuple(jax.tree.map(stack, state(name)) for name in self.pattern),
            "tail": tuple(map(state, self.tail)),
        }

    def __call__(self, tokens_BxT, seq: Sequence, state):
        """-> (logits_BxTxV in float32 or wider, state)."""
        x_BxTxD, head_VxD, state = self.hidden(tokens_BxT, seq, state)
        with jax.default_matmul_precision(self.matmul_precision):
            return loss.logits(x_BxTxD, head_VxD, self.logit_cap), state

    def hidden(self, tokens_BxT, seq: Sequence, state):
        """-> (x_BxTxD, head_VxD, state); the logits are x W^T, capped (lm/loss.py).

        With output_bias both have a feature more, which is 1 in x and the bias in W.
        """
        return self.activations(tokens_BxT, seq, state)[0]

    @nn.compact
    def activations(self, tokens_BxT, seq: Sequence, state):
        """-> (what `hidden` returns, (h_BxTxD, dropped_BxTxD)).

        h is what the last block gave, before the last norm, and `dropped` is h under
        the mask of the output's dropout.
        """
        with jax.default_matmul_precision(self.matmul_precision):
            return self._activations(tokens_BxT, seq, state)

    def _activations(self, tokens_BxT, seq: Sequence, state):
        x_BxTxD, embedding_VxD = ends.embedded(self, tokens_BxT, seq)
        h_BxTxD, state = self._layers(x_BxTxD, seq, state)
        drop = lambda x_BxTxD: self.output_dropout(x_BxTxD, seq, "output")
        normed = BLOCKS[self.block].normed
        x_BxTxD = h_BxTxD if normed else ends.norm(self, "norm", h_BxTxD, seq)
        x_BxTxD, head_VxD = ends.head(self, x_BxTxD, drop, embedding_VxD, seq)
        return (x_BxTxD, head_VxD, state), (h_BxTxD, drop(h_BxTxD))

    def _layers(self, x_BxTxD, seq: Sequence, state):
        carry = {}
        for name in dict.fromkeys(self.layers):
            mixer = self.mixer(name)
            carry |= mixer.initial_carry(*x_BxTxD.shape[:2])
            carry |= mixer.shared(
                lambda role, init, shape, name=name: parameter(
                    self, f"{name}_{role}", init, shape, seq
                )
            )

        def single(x_BxTxD, carry, where: str, first_layer: int):
            states = []
            for j, name in enumerate(getattr(self, where)):
                make_block = self._make_block(name, self.remat)
                block = make_block(name=f"{where}_block_{j}")
                layer_seq = seq._replace(layer=first_layer + j)
                x_BxTxD, new, carry = block(x_BxTxD, layer_seq, state[where][j], carry)
                states.append(new)
            return x_BxTxD, carry, tuple(states)

        x_BxTxD, carry, prefix = single(x_BxTxD, carry, "prefix", 0)
        units = ()
        if self.repeats:
            few = WRITTEN_OUT.get(jax.default_backend(), 0)
            # Written out, XLA would find what is computed again to be the same.
            loop = self.remat != "none" or self.repeats * len(self.pattern) > few
            scan = nn.scan(
                REMAT[self.remat](Unit),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0, 0),
                length=self.repeats,
                unroll=1 if loop else self.repeats,
                # Or it is traced once more, for variables that layers share.
                check_constancy_invariants=False,
            )
            make_blocks = tuple(map(self._make_block, self.pattern))
            unit = scan(make_blocks, len(self.prefix), name="units")
            (x_BxTxD, carry), units = unit(
                (x_BxTxD, carry), seq, state["units"], jnp.arange(self.repeats)
            )
        first = len(self.layers) - len(self.tail)
        x_BxTxD, carry, tail = single(x_BxTxD, carry, "tail", first)
        return x_BxTxD, {"prefix": prefix, "units": units, "tail": tail}

    def unrolled(self) -> "LM":
        """The same model with every layer in the prefix: one leaf a layer, no scan.

        For decoding: a scan over stacked weights copies each weight at every token.
        """
        return self.clone(prefix=self.layers, pattern=(), repeats=0, tail=())

    def unstack(self, params):
        """Parameters of `unrolled()` from this model's: call it outside jit, once."""
        layers = [params[f"prefix_block_{j}"] for j in range(len(self.prefix))]
        for r in range(self.repeats):
            for j in range(len(self.pattern)):
                stacked = params["units"][f"block_{j}"]
                layers.append(jax.tree.map(lambda x, r=r: x[r], stacked))
        layers += [params[f"tail_block_{j}"] for j in range(len(self.tail))]
        shared = {k: v for k, v in params.items() if k != "units" and "block_" not in k}
        return shared | {f"prefix_block_{j}": layer for j, layer in enumerate(layers)}

    def initial_params(self, seed):
        """float32 parameters, each drawn by (seed, layer, role). Jit it: one path."""
        seq = Sequence(*map(jnp.asarray, sequence.full(1, 1)[:4]))
        seq = seq._replace(key=jax.random.key(seed))
        tokens_BxT = jnp.zeros((1, 1), jnp.int32)
        state = self.initial_state(1, 0)
        return self.init(jax.random.key(seed), tokens_BxT, seq, state)["params"]


def build(config, vocab_size: int) -> LM:
    """The model of a resolved config (see lm.config.resolve)."""
    m = config.model
    dtype = jnp.dtype(m.dtype)
    repeats, rest = divmod(m.depth, len(m.pattern))
    drop = lambda rate: Dropout(rate, m.dropout_mask)
    make_mixer = {}
    for name in m.pattern:
        fields = dict(m.mixers[name])
        kind = MIXERS[fields.pop("kind", name)]
        mixer = kind(m.width, m.depth, dtype, **fields, parent=None)
        width = BLOCKS[m.block].mixer_width(mixer, m.mlp_width)
        make_mixer[name] = functools.partial(kind, width, m.depth, dtype, **fields)
    return LM(
        vocab_size=vocab_size,
        width=m.width,
        make_mixer=FrozenDict(make_mixer),
        block=m.block,
        block_fields=FrozenDict(
            mlp=m.mlp,
            mlp_width=m.mlp_width,
            norm=m.norm,
            norm_eps=m.norm_eps,
            bias=m.bias,
            dropout=drop(m.residual_dropout),
            conv_width=m.conv_width,
        ),
        prefix=(),
        pattern=tuple(m.pattern) if repeats else (),
        repeats=repeats,
        tail=tuple(m.pattern[:rest]),
        norm=m.norm,
        norm_eps=m.norm_eps,
        positions=config.data.context if m.position == "learned" else 0,
        token_types=m.token_types,
        embedding_norm=m.embedding_norm,
        embedding_scale=m.embedding_scale,
        logit_cap=m.logit_cap,
        output_layer=m.output_layer,
        output_bias=m.output_bias,
        tied=m.tied,
        word_dropout=m.word_dropout,
        embedding_dropout=drop(m.embedding_dropout),
        output_dropout=drop(m.output_dropout),
        dtype=dtype,
        matmul_precision=m.matmul_precision,
        remat=m.remat,
    )
