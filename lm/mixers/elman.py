"""Elman network: h_t = activation(W x_t + R h_{t-1} + b).

Elman 1990; with relu it is born as the IRNN of Le et al. 2015 (arXiv 1504.00941).
"""

import jax.numpy as jnp

from lm import inits
from lm.mixers.gated import Recurrent
from lm.ops import cells
from lm.sequence import Sequence


class Elman(Recurrent):
    """hidden and weight_dropout as in Recurrent.

    activation: tanh, R born orthogonal; or relu (cut at 1e4), R born as the identity.
    """

    activation: str = "tanh"

    gates = 1
    choices = {"activation": tuple(cells.ELMAN)}

    def input_init(self, key, shape, dtype):
        if self.activation == "relu":
            return inits.truncated_normal(0.001)(key, shape, dtype)
        return inits.fan_in(key, shape, dtype)

    def recurrent_init(self, key, shape, dtype):
        if self.activation == "relu":
            return jnp.eye(shape[0], dtype=dtype)
        return inits.orthogonal_gates(key, shape, dtype)

    def make_cell(self, seq: Sequence):
        return cells.ELMAN[self.activation], ()

    def initial_state(self, batch: int, capacity: int):
        return self.zeros(batch)
