"""python run.py train --config=configs/rwkv7.py --workdir=runs/rwkv7

RWKV-7 (Peng et al. 2025, arXiv 2503.14456): time mix and channel mix, each with a token
shift, LayerNorm.

2.38 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("rwkv7")
    config.model.update(pattern=("rwkv7",), block="rwkv", mlp="none", mlp_width=288)
    config.model.update(norm="layernorm", norm_eps=1e-5)
    return config
