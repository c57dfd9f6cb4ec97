"""python run.py train --config=configs/elman.py --workdir=runs/elman

Elman's recurrent network (Elman 1990): h_t = tanh(W x_t + R h_{t-1} + b), in the block
that every mixer gets.

2.16 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("elman")
    config.model.update(pattern=("elman",), mlp_width=384)
    return config
