"""python run.py train --config=configs/mamba.py --workdir=runs/mamba

Mamba (Gu and Dao 2023, arXiv 2312.00752): selective state spaces, no MLP; two layers
stand for one of attention and MLP.

2.13 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("mamba")
    config.model.update(pattern=("mamba",), width=112, depth=4, mlp="none")
    return config
