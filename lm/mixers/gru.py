"""GRU: h_t = u_t h_{t-1} + (1 - u_t) tanh(W x_t + r_t (U h_{t-1} + b)).

Cho et al. 2014, arXiv 1406.1078, with the reset gate after the product as in cuDNN.
"""

from lm import inits
from lm.layers import parameter
from lm.mixers.gated import Gated
from lm.ops import cells
from lm.sequence import Sequence


class GRU(Gated):
    """As Gated; remember is the bias of the update gate u."""

    gates = 3

    def make_cell(self, seq: Sequence):
        H = self.hidden or self.width
        return cells.GRU, parameter(self, "candidate_bias", inits.zeros, (H,), seq)

    def initial_state(self, batch: int, capacity: int):
        return self.zeros(batch)
