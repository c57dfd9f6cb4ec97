"""minLSTM: h_t = f'_t h_{t-1} + i'_t g(W x_t), with f' = f / (f + i), i' = i / (f + i).

Feng et al. 2024, arXiv 2410.01201, section 3.2; f and i are sigmoids of W_f x and
W_i x, and g is that of lm/mixers/mingru.py.
"""

import jax

from lm.mixers.mingru import MinGRU


class MinLSTM(MinGRU):
    """expand as in MinGRU."""

    parts = 3

    def gates(self, f, i):
        odds = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)  # log f - log i
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds)
