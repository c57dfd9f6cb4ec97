"""python run.py train --config=configs/olmo2.py --workdir=runs/olmo2

OLMo 2 (arXiv 2501.00656): Llama whose norms are of what attention and the MLP give, and
of all queries and all keys.

2.38 bits per byte of test text, with 0.41M parameters.
"""

from configs import base


def get_config():
    config = base.small("olmo2")
    config.model.update(block="olmo", mlp_width=320, norm_eps=1e-6)
    config.model.mixers.attention = dict(heads=4, qk_norm="rms_all")
    return config
