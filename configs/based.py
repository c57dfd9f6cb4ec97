"""python run.py train --config=configs/based.py --workdir=runs/based

Based (Arora et al. 2024, arXiv 2402.18668): linear attention by the second-order Taylor
expansion of exp, and attention in a small window; no learned positions.

2.48 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("based")
    config.model.update(pattern=("taylor", "window"), mlp_width=336)
    config.model.mixers.taylor = dict(
        kind="linear_attention", feature_map="taylor", feature_width=8
    )
    config.model.mixers.window = dict(kind="attention", window=16)
    return config
