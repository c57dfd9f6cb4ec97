"""Gated DeltaNet: S_t = e^{g_t} (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T.

Yang et al. 2024, arXiv 2412.06464, eq. 10, with the decay of Mamba-2:
g_t = -exp(A_log) softplus(W_a x_t + dt_bias).
"""

import jax
import jax.numpy as jnp

from lm import inits, layers
from lm.layers import parameter
from lm.mixers.deltanet import DeltaNet
from lm.sequence import Sequence


def a_log_init(key, shape, dtype):
    """log of U(0, 16), kept away from log 0."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-2, 16.0))


class GatedDeltaNet(DeltaNet):
    """The keys of DeltaNet; 6 D^2 parameters by default."""

    key_expand: float = 0.75
    value_expand: float = 1.5

    parameter_groups = ((r"/A_log$", "no_decay"),)
    parameter_kinds = ((r"/decay_gate/kernel$", "vector"),)

    def log_decay(self, x_BxTxD, seq: Sequence):
        H = self.heads
        a_BxTxH = layers.Dense(H, name="decay_gate")(x_BxTxD, seq)
        dt_bias_H = parameter(self, "dt_bias", inits.time_step, (H,), seq)
        a_log_H = parameter(self, "A_log", a_log_init, (H,), seq)
        a_BxTxH = a_BxTxH.astype(layers.accumulator(self.dtype))
        return -jnp.exp(a_log_H) * jax.nn.softplus(a_BxTxH + dt_bias_H)

    def gated(self, o_BxTxF, x_BxTxD, seq: Sequence):
        gate_BxTxF = layers.Dense(o_BxTxF.shape[-1], name="gate")(x_BxTxD, seq)
        return o_BxTxF * jax.nn.silu(gate_BxTxF.astype(o_BxTxF.dtype))
