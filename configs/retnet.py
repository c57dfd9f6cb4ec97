"""python run.py train --config=configs/retnet.py --workdir=runs/retnet

RetNet (Sun et al. 2023, arXiv 2307.08621): a fixed decay for each head, values of twice
the width, a gate.

2.49 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("retnet")
    config.model.update(pattern=("retnet",), mlp_width=128)
    return config
