"""python run.py train --config=configs/mingru.py --workdir=runs/mingru

minGRU (Feng et al. 2024, arXiv 2410.01201): gates of the input alone, so a linear
recurrence.

2.32 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("mingru")
    config.model.update(pattern=("mingru",), mlp_width=288)
    return config
