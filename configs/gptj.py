"""python run.py train --config=configs/gptj.py --workdir=runs/gptj

GPT-J (Wang and Komatsuzaki 2021): attention and MLP in parallel on one LayerNorm,
interleaved RoPE on half of each head here.

2.65 bits per byte of test text, with 0.40M parameters.
Two layers find the order of tokens late: validation 2.75 at update 150, 2.54 at
300 and falling; in parallel, no MLP sees what its own layer attends to.
"""

from configs import base


def get_config():
    config = base.small("gptj")
    config.model.update(block="parallel_one_norm", mlp="gelu", mlp_width=400)
    config.model.update(norm="layernorm", norm_eps=1e-5, bias=True, tied=False)
    config.model.mixers.attention = dict(
        heads=4, position="rope_interleaved", rope_fraction=0.5
    )
    return config
