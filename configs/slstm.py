"""python run.py train --config=configs/slstm.py --workdir=runs/slstm

sLSTM layers (Beck et al. 2024, arXiv 2405.04517): exponential gates, a normaliser, and
heads that do not mix in the recurrence.

2.24 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("slstm")
    config.model.update(pattern=("slstm",), mlp="geglu", mlp_width=384)
    return config
