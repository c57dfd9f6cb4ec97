"""python run.py train --config=configs/gru.py --workdir=runs/gru

GRU layers (Cho et al. 2014, arXiv 1406.1078) in the block that every mixer gets:
pre-norm, residual, MLP.

2.17 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("gru")
    config.model.update(pattern=("gru",), mlp_width=224)
    return config
