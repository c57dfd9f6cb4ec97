"""python run.py train --config=configs/deltanet.py --workdir=runs/deltanet

DeltaNet (Yang et al. 2024, arXiv 2406.06484): a write first takes away what its key
held.

2.41 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("deltanet")
    config.model.update(pattern=("deltanet",), mlp_width=304)
    return config
