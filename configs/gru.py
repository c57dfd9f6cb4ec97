"""python run.py train --config=configs/gru.py --workdir=runs/gru

GRU layers (Cho et al. 2014, arXiv 1406.1078) in the block that every mixer gets:
pre-norm, residual, MLP.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "gru"
    config.model.pattern = ("gru",)
    return config
