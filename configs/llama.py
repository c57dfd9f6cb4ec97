"""python run.py train --config=configs/llama.py --workdir=runs/llama

Llama (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288): RMSNorm, SwiGLU of about
8/3 D, RoPE, two queries to a key (GQA), a head of its own, no biases.

2.44 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("llama")
    config.model.update(mlp_width=304, norm_eps=1e-5, tied=False)
    config.model.mixers.attention = dict(heads=4, kv_heads=2)
    return config
