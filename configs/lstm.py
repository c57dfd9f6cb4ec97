"""python run.py train --config=configs/lstm.py --workdir=runs/lstm

LSTM layers with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000) in
the block that every mixer gets: pre-norm, residual, MLP.

2.22 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("lstm")
    config.model.update(pattern=("lstm",), mlp_width=128)
    return config
