"""python run.py train --config=configs/lstm.py --workdir=runs/lstm

LSTM layers with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000) in
the block that every mixer gets: pre-norm, residual, MLP.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "lstm"
    config.model.pattern = ("lstm",)
    return config
