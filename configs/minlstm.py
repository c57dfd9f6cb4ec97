"""python run.py train --config=configs/minlstm.py --workdir=runs/minlstm

minLSTM (Feng et al. 2024, arXiv 2410.01201): normalised forget and input gates of the
input alone, so a linear recurrence.

2.33 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("minlstm")
    config.model.update(pattern=("minlstm",), mlp_width=224)
    return config
