"""python run.py train --config=configs/bahdanau.py --workdir=runs/bahdanau

An LSTM, then additive attention over the model's own past (Bahdanau et al. 2015, arXiv
1409.0473).

2.21 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("bahdanau")
    config.model.update(pattern=("lstm", "additive_attention"), mlp_width=224)
    return config
