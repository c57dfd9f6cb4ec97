"""mLSTM: C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t and
h_t = norm(C_t^T q_t / max(|n_t . q_t|, 1)), with f a sigmoid and i an exponential.

Beck et al. 2024, arXiv 2405.04517, eq. 19-27; as in the layer of xLSTM-7B (Beck et al.
2025, arXiv 2503.13427), or inside the block of the first paper's figure 10.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.base import Mixer
from lm.ops import mlstm
from lm.sequence import Sequence

GATE_CAP = 15.0  # of the pre-activations of i and f in xLSTM-7B


def small(width: float):
    """Normal of variance 2 / (5 D) (Nguyen and Salazar, arXiv 1910.05895)."""
    return nn.initializers.normal((2 / (5 * width)) ** 0.5)


class MLSTM(Mixer):
    """heads: H, each of width / heads values.

    projections: "full", xLSTM-7B's: dense q, k and v, capped gates, an output gate and
      projection; "conv", xLSTM's: q and k from a convolution, q, k and v block by
      block, a skip of the convolution; output gate and projection are the block's.
    key_expand: width of all keys over D, of "full"; "conv" has keys as wide as values.
    conv_width: taps of the convolution, block_width: of a block; of "conv".
    chunk: tokens of a chunk, a power of two; by default the backend's.
    """

    heads: int = 4
    projections: str = "full"
    key_expand: float = 0.5
    conv_width: int = 4
    block_width: int = 4
    chunk: int | None = None

    choices = {"projections": ("full", "conv")}
    parameter_kinds = ((r"/gates/kernel$", "vector"),)  # two numbers a head

    @property
    def up_project(self) -> bool:
        return self.projections == "conv"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(H, K, V)."""
        H, V = self.heads, self.width // self.heads
        return H, V if self.up_project else round(self.key_expand * self.width / H), V

    @nn.compact
    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        mix = {"full": self._full, "conv": self._conv}[self.projections]
        y_BxTxD, state = mix(x_BxTxD, seq, state)
        return y_BxTxD, state, carry

    def _full(self, x_BxTxD, seq: Sequence, state):
        (H, K, _), D = self.sizes, self.width

        def dense(name: str, width: int):
            return layers.Dense(width, init=small(D), name=name)(x_BxTxD, seq)

        q_BxTxF, k_BxTxF, v_BxTxD = dense("q", H * K), dense("k", H * K), dense("v", D)
        gates_BxTxF = self._gates(x_BxTxD, nn.initializers.constant(-10.0), seq)
        gates_BxTxF = GATE_CAP * jnp.tanh(gates_BxTxF / GATE_CAP)
        h_BxTxD, state = self._cell(
            q_BxTxF, k_BxTxF, v_BxTxD, gates_BxTxF, state, seq, norm_eps=1e-6
        )
        h_BxTxD *= jax.nn.sigmoid(dense("output_gate", D))
        init = nn.initializers.normal(2 / self.layers * D**-0.5)
        return layers.Dense(D, init=init, name="output")(h_BxTxD, seq), state

    def _conv(self, x_BxTxD, seq: Sequence, state):
        c_BxTxD, buffer_BxWxD = layers.short_conv(
            self,
            "conv",
            x_BxTxD,
            self.conv_width,
            state["conv"],
            seq,
            inits.zeros,
        )
        c_BxTxD = jax.nn.silu(c_BxTxD)
        q_BxTxD = self._blocks("q", c_BxTxD, seq)
        k_BxTxD = self._blocks("k", c_BxTxD, seq)
        v_BxTxD = self._blocks("v", x_BxTxD, seq)
        qkv_BxTxF = jnp.concatenate([q_BxTxD, k_BxTxD, v_BxTxD], -1)
        gates_BxTxF = self._gates(qkv_BxTxF, nn.initializers.normal(0.1), seq)
        h_BxTxD, state = self._cell(
            q_BxTxD, k_BxTxD, v_BxTxD, gates_BxTxF, state, seq, norm_eps=1e-5
        )
        skip_D = parameter(self, "skip_scale", inits.ones, (self.width,), seq)
        y_BxTxD = h_BxTxD + skip_D.astype(c_BxTxD.dtype) * c_BxTxD
        return y_BxTxD, state | {"conv": buffer_BxWxD}

    def _blocks(self, name: str, x_BxTxD, seq: Sequence):
        """x W, W block-diagonal; drawn for a model half as wide as the mixer."""
        (B, T, D), K = x_BxTxD.shape, self.block_width
        shape, init = (D // K, K, K), small(D / 2)
        kernel_NxKxK = parameter(self, f"{name}_kernel", init, shape, seq)
        kernel_NxKxK = kernel_NxKxK.astype(x_BxTxD.dtype)
        x_BxTxNxK = x_BxTxD.reshape(B, T, D // K, K)
        y_BxTxNxK = jnp.einsum("btni,nij->btnj", x_BxTxNxK, kernel_NxKxK)
        return y_BxTxNxK.reshape(B, T, D)

    def _gates(self, x_BxTxF, i_bias_init, seq: Sequence):
        """Pre-activations of i and f, [B, T, 2 H], in float32 or wider."""
        H = self.heads

        def bias_init(key, shape, dtype):
            f_bias_H = jnp.linspace(3, 6, H, dtype=dtype)
            return jnp.concatenate([i_bias_init(key, (H,), dtype), f_bias_H])

        z_BxTxF = layers.Dense(2 * H, init=inits.zeros, name="gates")(x_BxTxF, seq)
        bias_F = parameter(self, "gates_bias", bias_init, (2 * H,), seq)
        return z_BxTxF.astype(layers.accumulator(self.dtype)) + bias_F

    def _cell(self, q, k, v, gates_BxTxF, state, seq: Sequence, norm_eps: float):
        """(norm(h) [B, T, D], state) of q, k and v of all heads."""
        H, K, _ = self.sizes
        q, k, v = (x.reshape(*x.shape[:2], H, -1) for x in (q, k, v))
        i_BxTxH, f_BxTxH = jnp.split(gates_BxTxF, 2, -1)
        start = state["C"], state["n"], state["m"]
        q *= K**-0.5
        h_BxTxHxV, end = mlstm.cell(q, k, v, i_BxTxH, f_BxTxH, start, seq, self.chunk)
        norm = layers.HeadNorm(norm_eps, bias=False, name="norm")
        h_BxTxD = norm(h_BxTxHxV, seq).reshape(*h_BxTxHxV.shape[:2], self.width)
        return h_BxTxD.astype(self.dtype), dict(zip("Cnm", end, strict=True))

    def initial_state(self, batch: int, capacity: int):
        H, K, V = self.sizes
        shapes = {"C": (H, K, V), "n": (H, K), "m": (H,)}
        dtype = layers.accumulator(self.dtype)
        state = {name: jnp.zeros((batch, *s), dtype) for name, s in shapes.items()}
        if self.up_project:
            shape = (batch, self.conv_width - 1, self.width)
            state["conv"] = jnp.zeros(shape, self.dtype)
        return state

    def contradiction(self) -> tuple[str, str] | None:
        if self.up_project and self.width % self.block_width:
            return "block_width", f"does not divide the width {self.width}"
        size = self.key_expand * self.width / self.heads
        if not self.up_project and (size < 0.5 or abs(size - round(size)) > 1e-6):
            return "key_expand", f"makes {self.heads} heads of {size:g}, not whole"

    def context_flops(self, length: int) -> int:
        return length * 2 * self.conv_width * self.width if self.up_project else 0
