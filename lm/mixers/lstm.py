"""LSTM: c_t = f_t c_{t-1} + i_t tanh(g_t), h_t = o_t tanh(c_t).

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from lm.mixers.gated import Gated
from lm.ops import cells
from lm.sequence import Sequence


class LSTM(Gated):
    """As Gated; remember is the bias of the forget gate."""

    gates = 4

    def make_cell(self, seq: Sequence):
        return cells.LSTM, ()

    def initial_state(self, batch: int, capacity: int):
        return self.zeros(batch), self.zeros(batch)
