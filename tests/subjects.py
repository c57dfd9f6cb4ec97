"""What is tested: small mixers, small models, and rows that exercise them."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm import config as configs
from lm import model as models
from lm import sequence
from lm.mixers import MIXERS
from lm.sequence import Sequence

WIDTH, LAYERS, ROWS, LENGTH, PREFIX, VOCAB = 16, 4, 3, 13, 3, 11
CAPACITY = PREFIX + LENGTH
# Most of a test's time is compilation; no property here is about speed.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
LAYER = 1  # the absolute layer that a lone mixer plays

# Two heads, and chunks of which LENGTH is no multiple.
SMALL = {"heads": 2, "chunk": 4}

# Fields of registered mixers under a second name; the whole contract holds for each.
VARIANTS: dict[str, dict] = {
    "attention_gqa": {"kind": "attention", "heads": 4, "kv_heads": 2},
    "attention_mqa": {"kind": "attention", "kv_heads": 1, "head_width": 6},
    "attention_plain": {"kind": "attention", "position": "none", "bias": True},
    "attention_gated": {
        "kind": "attention",
        "heads": 4,
        "kv_heads": 2,
        "qk_norm": "rms_head",
        "gate": "sigmoid",
        "rope_fraction": 0.5,
    },
    "attention_alibi": {
        "kind": "attention",
        "position": "alibi",
        "soft_cap": 2.0,
        "sinks": True,
    },
    "window": {"kind": "attention", "window": 4},
    "window_blocks": {
        "kind": "attention",
        "window": 5,
        "block": 4,
        "position": "rope_interleaved",
        "qk_norm": "rms_all",
        "sinks": True,
    },
    "lstm_wide": {"kind": "lstm", "hidden": 20},
    "gru_narrow": {"kind": "gru", "hidden": 12},
    "elman_relu": {"kind": "elman", "activation": "relu", "hidden": 12},
    "slstm_plain": {"kind": "slstm", "conv_width": None, "forget": "exp"},
    "mingru_even": {"kind": "mingru", "expand": 1},
    "hgrn_wide": {"kind": "hgrn", "expand": 1.5},
    "deltanet_uneven": {"kind": "deltanet", "key_expand": 0.5, "value_expand": 2.0},
    "gated_deltanet_signed": {"kind": "gated_deltanet", "eigenvalues": "signed"},
    "deltaproduct_ungated": {
        "kind": "deltaproduct",
        "householders": 3,
        "decay": "none",
    },
    "mamba_wide": {"kind": "mamba", "expand": 3, "state_width": 5, "dt_rank": 3},
    "mamba_constant": {"kind": "mamba", "selection": "none"},
    "mamba_ungated": {"kind": "mamba", "gate": "none"},
    "mamba_plain": {"kind": "mamba", "selection": "none", "gate": "none"},
    "mamba2_groups": {
        "kind": "mamba2",
        "groups": 2,
        "head_width": 8,
        "state_width": 6,
        "conv_width": 3,
    },
    "mlstm_conv": {"kind": "mlstm", "projections": "conv"},
    "rglru_wide": {"kind": "rglru", "lru_width": 20, "conv_width": 3},
    "linear_attention_rope": {"kind": "linear_attention", "position": "rope"},
    "linear_attention_taylor": {"kind": "linear_attention", "feature_map": "taylor"},
    "linear_attention_hedgehog": {
        "kind": "linear_attention",
        "feature_map": "hedgehog",
        "feature_width": 6,
    },
    "linear_attention_rms": {
        "kind": "linear_attention",
        "feature_map": "relu",
        "feature_width": 16,
        "norm": "rms",
    },
}


def spec(name: str) -> dict:
    """kind and fields of a mixer or variant; SMALL where it has such fields."""
    fields = {"kind": name} | VARIANTS.get(name, {})
    known = {field.name for field in dataclasses.fields(MIXERS[fields["kind"]])}
    return {field: n for field, n in SMALL.items() if field in known} | fields


def values(*shape: int, seed: int = 0, dtype=np.float32):
    """Standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def going_on(segment_ids_BxT, start: int = PREFIX) -> Sequence:
    """Rows whose document 1 goes on after `start` earlier tokens."""
    ids_BxT = np.asarray(segment_ids_BxT)
    seq = sequence.from_segments(ids_BxT)
    positions_BxT = seq.positions + start * (ids_BxT == 1)
    return seq._replace(positions=positions_BxT, reset=seq.reset & (ids_BxT != 1))


def ragged() -> Sequence:
    """Three rows: one document; padding, reset and padding; a reset."""
    padded = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]
    return going_on([[1] * LENGTH, padded, [1] * 6 + [2] * 7])


def cut(seq: Sequence, first: int, end: int) -> Sequence:
    return Sequence(*(field[:, first:end] for field in seq[:4]))


def close(got, want, tolerance: float = 1e-5) -> None:
    """Leaves of two pytrees agree, relative to the largest value of each leaf."""

    def check(got, want):
        error = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
        limit = tolerance * max(1.0, np.abs(want).max(initial=0))
        assert error.max(initial=0) <= limit, f"differs by {error.max():.3g}"

    jax.tree.map(check, got, want)


def same(got, want) -> None:
    """Leaves of two pytrees are bitwise equal."""
    jax.tree.map(np.testing.assert_array_equal, got, want)


def form(state):
    """Shapes and dtypes."""
    return jax.tree.map(lambda x: (x.shape, x.dtype), state)


class Alone(nn.Module):
    """A mixer under the name that it has in a block, so that its draws are the same."""

    make_mixer: Callable

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        return self.make_mixer(name="mixer")(x_BxTxD, seq, state, carry)


class Subject:
    """One mixer with perturbed parameters (a zero bias hides bugs) and jitted calls."""

    def __init__(self, name: str, dtype=jnp.float32):
        fields = spec(name)
        kind = MIXERS[fields.pop("kind")]
        self.make = functools.partial(kind, WIDTH, LAYERS, dtype, **fields)
        self.mixer = self.make(parent=None)
        self.dtype = dtype
        noise = lambda p: p + 0.1 * values(*p.shape, seed=p.size)
        cast = lambda p: noise(np.asarray(p)).astype(jnp.promote_types(dtype, p.dtype))
        self.params = jax.tree.map(cast, self.initial_params(LAYER))
        self.run = jax.jit(self.call, compiler_options=QUICK)
        self.jacobian = jax.jit(self._jacobian, compiler_options=QUICK)

    def initial_params(self, layer: int):
        """As they are born, in absolute layer `layer` at seed 0."""

        @functools.partial(jax.jit, compiler_options=QUICK)
        def init(layer):
            seq = Sequence(*map(jnp.asarray, sequence.full(1, 1)[:4]))
            seq = seq._replace(key=jax.random.key(0), layer=layer)
            x_1x1xD = jnp.zeros((1, 1, WIDTH), self.dtype)
            state, carry = (
                self.mixer.initial_state(1, 0),
                self.mixer.initial_carry(1, 1),
            )
            return Alone(self.make).init(seq.key, x_1x1xD, seq, state, carry)

        return init(jnp.int32(layer))["params"]["mixer"]

    def call(self, params, x_BxTxD, seq: Sequence, state):
        """-> (y_BxTxD, state)."""
        carry = self.mixer.initial_carry(*x_BxTxD.shape[:2])
        seq = seq._replace(layer=jnp.int32(LAYER))
        variables = {"params": params}
        return self.mixer.apply(variables, x_BxTxD, seq, state, carry)[:2]

    def __call__(self, x_BxTxD, seq: Sequence, state):
        y_BxTxD, state = self.run(self.params, x_BxTxD, seq, state)
        return np.asarray(y_BxTxD), jax.tree.map(np.asarray, state)

    def x(self, length: int = LENGTH, seed: int = 0):
        return values(ROWS, length, WIDTH, seed=seed).astype(self.dtype)

    def empty(self, capacity: int = CAPACITY):
        return self.mixer.initial_state(ROWS, capacity)

    def warm(self, seed: int = 1):
        """The state after PREFIX tokens of document 1."""
        return self(self.x(PREFIX, seed), sequence.full(ROWS, PREFIX), self.empty())[1]

    def _jacobian(self, params, x_BxTxD, seq: Sequence, state):
        """d (w . y_t) / d x_s, [T, B, S, D], of one random w."""
        w_D = values(WIDTH, seed=2)
        f = lambda x: self.call(params, x, seq, state)[0] @ w_D
        y_BxT, pull = jax.vjp(f, x_BxTxD)
        one_TxBxT = jnp.eye(y_BxT.shape[1])[:, None] * jnp.ones_like(y_BxT)[None]
        return jax.vmap(lambda one: pull(one.astype(y_BxT.dtype))[0])(one_TxBxT)


@functools.cache
def subject(name: str) -> Subject:
    """The float32 subject, one of each name in a process."""
    return Subject(name)


def language_model(pattern: tuple[str, ...], depth: int | None = None, **changes):
    """(LM, resolved config) over mixers and variants; `changes` are keys of model."""
    entries = {f"model.mixers.{name}": spec(name) for name in pattern}
    keys = {"width": WIDTH, "mlp_width": 24, "depth": depth or len(pattern)}
    keys = {f"model.{k}": v for k, v in (keys | {"pattern": pattern} | changes).items()}
    config = configs.load("configs/base.py", entries | keys)
    config = configs.resolve(config)
    return models.build(config, VOCAB), config


def tokens(rows: int = ROWS, length: int = LENGTH, seed: int = 0):
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length), np.int32)


def initial(model, seed: int = 0):
    return jax.jit(model.initial_params, compiler_options=QUICK)(seed)


def apply(model, params, tokens_BxT, seq: Sequence, capacity: int = 0):
    """(logits, state) from the initial state."""

    def run(params):
        state = model.initial_state(len(tokens_BxT), capacity)
        return model.apply({"params": params}, tokens_BxT, seq, state)

    return jax.jit(run, compiler_options=QUICK)(params)
