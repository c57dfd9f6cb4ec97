"""HGRN: h_t = f_t h_{t-1} + (1 - f_t) SiLU(W_i x_t), f_t = b + (1 - b) sigmoid(W_f x).

Qin et al. 2023, arXiv 2311.04823, real-valued; y = W_o (RMSNorm(h) SiLU(W_g x)). The
lower bound b of layer l sums a softmax over all layers up to it: 0 in the first layer.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.mixers.base import Mixer
from lm.ops import diagonal
from lm.sequence import Sequence


def lower_bounds(logits_LxN):
    """Bounds of every layer: sums of a softmax over the layers, less its first row."""
    share_LxN = jax.nn.softmax(logits_LxN, 0)
    return jnp.cumsum(share_LxN, 0) - share_LxN[0]


class HGRN(Mixer):
    """expand: N / width."""

    expand: float = 1.0

    parameter_groups = ((r"lower_bounds_\d+$", "no_decay"),)

    @property
    def size(self) -> int:
        return int(self.width * self.expand)

    @property
    def bounds(self) -> str:
        """The name of the lower bounds: layers of one size share them."""
        return f"lower_bounds_{self.size}"

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        N, wide = self.size, layers.accumulator(self.dtype)
        bound_N = carry[self.bounds][0 if seq.layer is None else seq.layer]
        x_BxTxN = layers.Dense(N, name="input")(x_BxTxD, seq)
        f_BxTxN = layers.Dense(N, name="forget")(x_BxTxD, seq)
        gate_BxTxN = layers.Dense(N, name="gate")(x_BxTxD, seq)
        # 1 - f, which is exact where f is close to 1.
        write_BxTxN = (1 - bound_N) * jax.nn.sigmoid(-f_BxTxN.astype(wide))
        x_BxTxN = jax.nn.silu(x_BxTxN.astype(wide)) * write_BxTxN
        h_BxTxN = diagonal.recurrence(1 - write_BxTxN, x_BxTxN, state, seq)
        y_BxTxN = layers.RMSNorm(1e-5, name="norm")(h_BxTxN, seq)
        y_BxTxN = y_BxTxN.astype(x_BxTxD.dtype) * jax.nn.silu(gate_BxTxN)
        y_BxTxD = layers.Dense(self.width, name="output")(y_BxTxN, seq)
        return y_BxTxD, h_BxTxN[:, -1], carry

    def initial_state(self, batch: int, capacity: int):
        return jnp.zeros((batch, self.size), layers.accumulator(self.dtype))

    def initial_carry(self, batch: int, length: int) -> dict:
        wide = layers.accumulator(self.dtype)
        return self.shared(lambda role, init, shape: init(None, shape, wide))

    def shared(self, make: Callable) -> dict:
        logits_LxN = make(self.bounds, inits.zeros, (self.layers, self.size))
        wide = layers.accumulator(self.dtype)
        return {self.bounds: lower_bounds(jnp.asarray(logits_LxN, wide))}

    def contradiction(self) -> tuple[str, str] | None:
        if self.size < 1:
            return "expand", f"leaves no channel of model.width={self.width}"

    def context_flops(self, length: int) -> int:
        return 2 * length * self.size
