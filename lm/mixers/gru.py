"""GRU: h_t = u_t h_{t-1} + (1 - u_t) tanh(W x_t + r_t (U h_{t-1} + b)).

Cho et al. 2014, arXiv 1406.1078, with the reset gate after the product as in cuDNN.
"""

from lm.layers import parameter, zeros
from lm.mixers.gated import Gated
from lm.ops import cells
from lm.sequence import Sequence


class GRU(Gated):
    """hidden and remember (the bias of the update gate u) as in Gated."""

    gates = 3

    def make_cell(self, seq: Sequence):
        H = self.hidden or self.width
        return cells.GRU, parameter(self, "candidate_bias", zeros, (H,), seq)

    def initial_state(self, batch: int, capacity: int):
        return self.zeros(batch)
