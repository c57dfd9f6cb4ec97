"""python run.py train --config=configs/gpt_neox.py --workdir=runs/gpt_neox

GPT-NeoX (Black et al. 2022, arXiv 2204.06745): attention and MLP in parallel, RoPE on a
quarter of each head, LayerNorm, biases.
"""

from configs import base


def get_config():
    config = base.small("gpt_neox")
    config.model.update(block="parallel", mlp="gelu", mlp_width=384, bias=True)
    config.model.update(norm="layernorm", norm_eps=1e-5, tied=False)
    config.model.mixers.attention = dict(heads=4, rope_fraction=0.25, bias=True)
    return config
