"""A mixer of one screen, and broken forms of it: what each check must turn down."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.mixers import Mixer
from lm.ops import diagonal
from lm.sequence import Sequence


class Leaky(Mixer):
    """h_t = rate h_{t-1} + W x_t: the least that keeps the contract."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        v_BxTxD = self.project(x_BxTxD, seq).astype(layers.accumulator(self.dtype))
        y_BxTxD, state = self.average(v_BxTxD, seq, state)
        return y_BxTxD.astype(x_BxTxD.dtype), state, carry

    def project(self, x_BxTxD, seq: Sequence):
        return layers.Dense(self.width, name="value")(x_BxTxD, seq)

    def average(self, v_BxTxD, seq: Sequence, state):
        rate_BxT = jnp.where(seq.valid, jnp.where(seq.reset, 0, self.rate), 1)
        h_BxTxD = diagonal.scan(
            jnp.broadcast_to(rate_BxT[..., None], v_BxTxD.shape).astype(v_BxTxD.dtype),
            jnp.where(seq.valid[..., None], v_BxTxD, 0),
            state,
        )
        return h_BxTxD, h_BxTxD[:, -1]

    def initial_state(self, batch: int, capacity: int):
        return jnp.zeros((batch, self.width), layers.accumulator(self.dtype))


class LooksAhead(Leaky):
    def project(self, x_BxTxD, seq):
        v_BxTxD = super().project(x_BxTxD, seq)
        return v_BxTxD + jnp.roll(v_BxTxD, -1, 1)


class IgnoresThePast(Leaky):
    def average(self, v_BxTxD, seq, state):
        return v_BxTxD, state


class ForgetsState(Leaky):
    def average(self, v_BxTxD, seq, state):
        return super().average(v_BxTxD, seq, jnp.zeros_like(state))


class DropsLastOfEven(Leaky):
    def average(self, v_BxTxD, seq, state):
        h_BxTxD, state = super().average(v_BxTxD, seq, state)
        return h_BxTxD, state if h_BxTxD.shape[1] % 2 else h_BxTxD[:, -2]


class IgnoresReset(Leaky):
    def average(self, v_BxTxD, seq, state):
        seq = seq._replace(reset=jnp.zeros_like(seq.reset))
        return super().average(v_BxTxD, seq, state)


class ResetsNearly(Leaky):
    """Within any tolerance, and yet not free of the document before."""

    def average(self, v_BxTxD, seq, state):
        h_BxTxD, _ = super().average(v_BxTxD, seq, state)
        before_BxTxD = jnp.concatenate([state[:, None], h_BxTxD[:, :-1]], 1)
        h_BxTxD += 1e-7 * jnp.where(seq.reset[..., None], before_BxTxD, 0)
        return h_BxTxD, h_BxTxD[:, -1]


class Float32(Leaky):
    def average(self, v_BxTxD, seq, state):
        narrow = lambda x: x.astype(jnp.float32)
        h_BxTxD, state = super().average(narrow(v_BxTxD), seq, narrow(state))
        return h_BxTxD.astype(v_BxTxD.dtype), state.astype(v_BxTxD.dtype)


class StopsGradient(Leaky):
    def average(self, v_BxTxD, seq, state):
        state = state if v_BxTxD.shape[1] == 1 else jax.lax.stop_gradient(state)
        return super().average(v_BxTxD, seq, state)


class NarrowOutput(Leaky):
    @nn.compact
    def __call__(self, x_BxTxD, seq, state, carry):
        y_BxTxD, state, carry = super().__call__(x_BxTxD, seq, state, carry)
        return y_BxTxD.astype(jnp.float32), state, carry


class Overflows(Leaky):
    def project(self, x_BxTxD, seq):
        return jnp.log1p(jnp.exp(super().project(x_BxTxD, seq)))


class SteepRoot(Leaky):
    """Finite forward; its slope is 1 / 0 where tanh is saturated."""

    def project(self, x_BxTxD, seq):
        return jnp.sqrt(1 - jnp.tanh(super().project(x_BxTxD, seq)) ** 2)


class DrawsByPath(Leaky):
    def project(self, x_BxTxD, seq):
        return nn.Dense(self.width, use_bias=False, name="value")(x_BxTxD)


class OtherInit(Leaky):
    def project(self, x_BxTxD, seq):
        init = inits.truncated_normal(0.02)
        return layers.Dense(self.width, init=init, name="value")(x_BxTxD, seq)


class Ungrouped(Leaky):
    def project(self, x_BxTxD, seq):
        scale_D = layers.parameter(self, "weight", inits.ones, (self.width,), seq)
        return super().project(x_BxTxD, seq) * scale_D


class Hoards(Leaky):
    """Keeps `capacity` past values and does not say so."""

    def average(self, v_BxTxD, seq, state):
        h_BxTxD, h_BxD = super().average(v_BxTxD, seq, state["h"])
        return h_BxTxD, state | {"h": h_BxD}

    def initial_state(self, batch: int, capacity: int):
        past_BxCxD = jnp.zeros((batch, capacity, self.width))
        return {"h": super().initial_state(batch, capacity), "past": past_BxCxD}


class ChangesForm(Leaky):
    def average(self, v_BxTxD, seq, state):
        h_BxTxD, state = super().average(v_BxTxD, seq, state.astype(v_BxTxD.dtype))
        return h_BxTxD, state.astype(jnp.bfloat16)


class MixesRows(Leaky):
    def project(self, x_BxTxD, seq):
        v_BxTxD = super().project(x_BxTxD, seq)
        return v_BxTxD - jnp.mean(v_BxTxD, 0, keepdims=True)


class IgnoresValid(Leaky):
    def average(self, v_BxTxD, seq, state):
        seq = seq._replace(valid=jnp.ones_like(seq.valid))
        return super().average(v_BxTxD, seq, state)


class KnowsItsPlace(Leaky):
    def project(self, x_BxTxD, seq):
        scale = 2 if "units" in self.path else 1
        return scale * super().project(x_BxTxD, seq)


# check -> mixers that break it, with what the check must say.
BROKEN: dict[str, list[tuple[type[Mixer], str]]] = {
    "causality": [(LooksAhead, "looks ahead"), (IgnoresThePast, "ignores the past")],
    "steps": [(ForgetsState, "differs by")],
    "splits": [(DropsLastOfEven, "differs by")],
    "documents": [(IgnoresReset, "differs by"), (ResetsNearly, "not equal")],
    "precision": [(Float32, "in float32"), (StopsGradient, "differs by")],
    "stability": [
        (NarrowOutput, "its output is float32"),
        (Overflows, "not finite"),
        (SteepRoot, "not finite"),
    ],
    "ledger": [
        (DrawsByPath, "differs by"),
        (OtherInit, "value/kernel"),
        (Ungrouped, "matches no group"),
    ],
    "growth": [(Hoards, "state_grows is False"), (ChangesForm, "state's form")],
    "isolation": [(MixesRows, "not equal"), (IgnoresValid, "differs by")],
    "structure": [(KnowsItsPlace, "not equal")],
    "parity": [(Leaky, "no parity test")],
}
