"""python run.py train --config=configs/gated_deltanet.py --workdir=runs/gated_deltanet

Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464): the delta rule with a decay for
each head and token.

2.23 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("gated_deltanet")
    config.model.update(pattern=("gated_deltanet",), mlp_width=208)
    return config
