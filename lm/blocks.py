"""Blocks: the residual map around a mixer, a name of model.block each."""

import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.dropout import Dropout
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import conv
from lm.sequence import Sequence


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)): the same for every mixer.

    With mlp="none" it is Mamba's (Gu and Dao 2023, arXiv 2312.00752 section 3.4), with
    "geglu" and RMSNorm that of Griffin and Hawk (De et al. 2024, arXiv 2402.19427).
    With conv_width > 1 the mixer reads h + conv(h), h = norm(x): the Canon layer A of
    Allen-Zhu 2025, arXiv 2512.17351 (Based has convolutions too, arXiv 2402.18668).

    Attributes:
      conv_width: tokens of the convolution before the mixer; its past ones are a state.
      mlps: the values of model.mlp that this kind has a place for.
      normed: whether what it gives is normed, so that the model's last norm is none.
    """

    make_mixer: Callable[..., Mixer]
    mlp: str
    mlp_width: int
    norm: str
    norm_eps: float
    bias: bool
    dropout: Dropout = Dropout()
    conv_width: int = 1

    mlps: ClassVar[tuple[str, ...]] = layers.MLPS
    normed: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        mix = self._mix if self.conv_width == 1 else self._convolve_and_mix
        h_BxTxD = self._norm("mixer_norm", x_BxTxD, seq)
        h_BxTxD, state, carry = mix(h_BxTxD, seq, state, carry)
        x_BxTxD += h_BxTxD
        if self.mlp != "none":
            x_BxTxD += self._mlp(self._norm("mlp_norm", x_BxTxD, seq), seq)
        return x_BxTxD, state, carry

    def _norm(self, name: str, x_BxTxD, seq: Sequence):
        return layers.NORMS[self.norm](self.norm_eps, name=name)(x_BxTxD, seq)

    def _mix(self, x_BxTxD, seq: Sequence, state, carry):
        mixer = self.make_mixer(name="mixer")
        y_BxTxD, state, carry = mixer(x_BxTxD, seq, state, carry)
        return self.dropout(y_BxTxD, seq, "mixer"), state, carry

    def _convolve_and_mix(self, x_BxTxD, seq: Sequence, state, carry):
        y_BxTxD, buffer_BxWxD = layers.short_conv(
            self, "conv", x_BxTxD, self.conv_width, state["conv"], seq
        )
        y_BxTxD, mixed, carry = self._mix(x_BxTxD + y_BxTxD, seq, state["mixer"], carry)
        return y_BxTxD, {"mixer": mixed, "conv": buffer_BxWxD}, carry

    def _mlp(self, x_BxTxD, seq: Sequence):
        mlp = layers.MLP(self.mlp, self.mlp_width, self.bias, name="mlp")
        return self.dropout(mlp(x_BxTxD, seq), seq, "mlp")

    def initial_state(self, batch: int, capacity: int):
        """The state before any token; `capacity` as in Mixer.initial_state."""
        mixer = self.make_mixer(parent=None)
        state = mixer.initial_state(batch, capacity)
        if self.conv_width == 1:
            return state
        shape = (batch, self.conv_width - 1, mixer.width)
        return {"mixer": state, "conv": jnp.zeros(shape, mixer.dtype)}

    def context_flops(self, length: int) -> int:
        """Those of its mixer, as Mixer.context_flops, and of its convolution."""
        mixer = self.make_mixer(parent=None)
        taps = self.conv_width if self.conv_width > 1 else 0
        return mixer.context_flops(length) + length * 2 * taps * mixer.width

    @classmethod
    def mixer_width(cls, mixer: Mixer, mlp_width: int) -> int:
        """The width that this kind gives `mixer`, which is of the model's width."""
        return mixer.width


class Plain(Block):
    """mixer(x), as in torch.nn.LSTM: no norm, no residual, dropout between layers."""

    mlps = ("none",)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        mixer = self.make_mixer(name="mixer")
        y_BxTxD, state, carry = mixer(x_BxTxD, seq, state, carry)
        if self.dropout.rate:
            last = seq.layer == mixer.layers - 1
            y_BxTxD = jnp.where(last, y_BxTxD, self.dropout(y_BxTxD, seq, "mixer"))
        return y_BxTxD, state, carry


class PostNorm(Block):
    """norm(x + mixer(x)), then norm(x + mlp(x)): Vaswani et al. 2017, arXiv 1706.03762
    section 3.1, and BERT (arXiv 1810.04805)."""

    normed = True

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        h_BxTxD, state, carry = self._mix(x_BxTxD, seq, state, carry)
        x_BxTxD = self._norm("mixer_norm", x_BxTxD + h_BxTxD, seq)
        if self.mlp != "none":
            h_BxTxD = self._mlp(x_BxTxD, seq)
            x_BxTxD = self._norm("mlp_norm", x_BxTxD + h_BxTxD, seq)
        return x_BxTxD, state, carry


class OLMo(Block):
    """x + norm(mixer(x)), then x + norm(mlp(x)) around attention: OLMo 2 (Walsh et al.
    2024, arXiv 2501.00656 section 3.2). Around any other mixer it is Block, as in OLMo
    Hybrid."""

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        if not self.make_mixer(parent=None).norm_after:
            return super().__call__(x_BxTxD, seq, state, carry)
        h_BxTxD, state, carry = self._mix(x_BxTxD, seq, state, carry)
        x_BxTxD += self._norm("mixer_norm", h_BxTxD, seq)
        if self.mlp != "none":
            x_BxTxD += self._norm("mlp_norm", self._mlp(x_BxTxD, seq), seq)
        return x_BxTxD, state, carry


class Parallel(Block):
    """x + mixer(norm(x)) + mlp(norm'(x)): GPT-NeoX (arXiv 2204.06745 section 2.1)."""

    mlps = tuple(name for name in layers.MLPS if name != "none")

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        h_BxTxD = self._norm("mixer_norm", x_BxTxD, seq)
        y_BxTxD, state, carry = self._mix(h_BxTxD, seq, state, carry)
        z_BxTxD = self._mlp(self._mlp_input(x_BxTxD, h_BxTxD, seq), seq)
        return x_BxTxD + y_BxTxD + z_BxTxD, state, carry

    def _mlp_input(self, x_BxTxD, h_BxTxD, seq: Sequence):
        return self._norm("mlp_norm", x_BxTxD, seq)


class ParallelOneNorm(Parallel):
    """h = norm(x), x + mixer(h) + mlp(h): GPT-J (Wang and Komatsuzaki 2021)."""

    def _mlp_input(self, x_BxTxD, h_BxTxD, seq: Sequence):
        return h_BxTxD


class ChannelMix(nn.Module):
    """W_v relu(W_k (x_t + (x_{t-1} - x_t) mu))^2 (RWKV-7, arXiv 2503.14456).

    The state is the last x, [B, D]. mu_i = 1 - (i / D)^((1 - layer / layers)^4) and
    W_v = 0 at first.
    """

    width: int
    layers: int
    bias: bool = False

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, buffer_BxD):
        D = x_BxTxD.shape[-1]

        def mu_init(key, shape, dtype):
            ratio = 1 - (0 if seq.layer is None else seq.layer) / self.layers
            return 1 - (jnp.arange(D, dtype=dtype) / D) ** ratio**4

        mu_D = parameter(self, "shift_scale", mu_init, (D,), seq).astype(x_BxTxD.dtype)
        before_BxTxD, buffer_BxD = conv.shift(x_BxTxD, buffer_BxD, seq)
        x_BxTxD += (before_BxTxD - x_BxTxD) * mu_D
        key_init = inits.prefixed(inits.uniform(0.5 * D**-0.5))
        key = layers.Dense(self.width, self.bias, key_init, name="key")
        h_BxTxF = jnp.square(jax.nn.relu(key(x_BxTxD, seq)))
        value = layers.Dense(D, self.bias, inits.zeros, name="value")
        return value(h_BxTxF, seq), buffer_BxD


class RWKV(Block):
    """x + mixer(norm(x)), then x + channel_mix(norm(x)) with model.mlp_width.

    RWKV-7 (Peng et al. 2025, arXiv 2503.14456), whose norm is LayerNorm.
    """

    mlps = ("none",)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        h_BxTxD = self._norm("mixer_norm", x_BxTxD, seq)
        h_BxTxD, mixed, carry = self._mix(h_BxTxD, seq, state["mixer"], carry)
        x_BxTxD += h_BxTxD
        h_BxTxD = self._norm("channel_mix_norm", x_BxTxD, seq)
        depth = self.make_mixer(parent=None).layers
        channel_mix = ChannelMix(self.mlp_width, depth, self.bias, name="channel_mix")
        h_BxTxD, last_BxD = channel_mix(h_BxTxD, seq, state["shift"])
        x_BxTxD += self.dropout(h_BxTxD, seq, "channel_mix")
        return x_BxTxD, {"mixer": mixed, "shift": last_BxD}, carry

    def initial_state(self, batch: int, capacity: int):
        mixer = self.make_mixer(parent=None)
        return {
            "mixer": mixer.initial_state(batch, capacity),
            "shift": jnp.zeros((batch, mixer.width), mixer.dtype),
        }


class XLSTM(Block):
    """x + W_d (mixer(W_u n) SiLU(W_g n)), n = norm(x), where the mixer up-projects.

    Beck et al. 2024, arXiv 2405.04517 section 2.4, pre up-projection: the mixer is as
    wide as the branches, model.mlp_width up to a multiple of its heads and blocks.
    Around any other mixer it is Block with GeGLU: post up-projection.
    """

    mlps = ("geglu",)

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        mixer = self.make_mixer(parent=None)
        if not mixer.up_project:
            return super().__call__(x_BxTxD, seq, state, carry)
        D, F = x_BxTxD.shape[-1], mixer.width
        up_init = inits.prefixed(nn.initializers.normal((2 / (5 * D)) ** 0.5))
        down_init = nn.initializers.normal(2 / mixer.layers * D**-0.5)
        h_BxTxD = self._norm("mixer_norm", x_BxTxD, seq)
        up_BxTxF = layers.Dense(F, self.bias, up_init, name="up")(h_BxTxD, seq)
        gate_BxTxF = layers.Dense(F, self.bias, up_init, name="gate")(h_BxTxD, seq)
        y_BxTxF, state, carry = self.make_mixer(name="mixer")(
            up_BxTxF, seq, state, carry
        )
        y_BxTxF *= jax.nn.silu(gate_BxTxF)
        y_BxTxD = layers.Dense(D, self.bias, down_init, name="down")(y_BxTxF, seq)
        x_BxTxD += self.dropout(y_BxTxD, seq, "mixer")
        return x_BxTxD, state, carry

    @classmethod
    def mixer_width(cls, mixer, mlp_width):
        if not mixer.up_project:
            return mixer.width
        unit = math.lcm(*(getattr(mixer, name, 1) for name in ("heads", "block_width")))
        return -(-mlp_width // unit) * unit


BLOCKS: dict[str, type[Block]] = {
    "shared": Block,
    "plain": Plain,
    "post_norm": PostNorm,
    "olmo": OLMo,
    "parallel": Parallel,
    "parallel_one_norm": ParallelOneNorm,
    "rwkv": RWKV,
    "xlstm": XLSTM,
}
