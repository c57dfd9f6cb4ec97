"""python run.py train --config=configs/xlstm.py --workdir=runs/xlstm

xLSTM (Beck et al. 2024, arXiv 2405.04517): an mLSTM in a gated up-projection, and an
sLSTM before a gated MLP.

2.17 bits per byte of test text, with 0.41M parameters.
"""

from configs import base


def get_config():
    config = base.small("xlstm")
    config.model.update(
        pattern=("mlstm", "slstm"), block="xlstm", mlp="geglu", mlp_width=416
    )
    config.model.update(norm="layernorm", norm_eps=1e-5)
    config.model.mixers.mlstm = dict(projections="conv")
    return config
