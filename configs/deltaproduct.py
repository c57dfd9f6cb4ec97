"""python run.py train --config=configs/deltaproduct.py --workdir=runs/deltaproduct

Gated DeltaProduct (Siems et al. 2025, arXiv 2502.10297): two delta steps a token, with
eigenvalues in [-1, 1].

2.20 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("deltaproduct")
    config.model.update(pattern=("deltaproduct",), mlp_width=112)
    return config
