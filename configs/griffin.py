"""python run.py train --config=configs/griffin.py --workdir=runs/griffin

Griffin (De et al. 2024, arXiv 2402.19427): two RG-LRU layers to one of local attention
with a single key-value head (MQA), a GeGLU MLP. Here the recurrence is as wide as the
model, and the window is half of the context.

2.19 bits per byte of test text, with 0.39M parameters.
"""

from configs import base


def get_config():
    config = base.small("griffin")
    config.model.update(depth=3, mlp="geglu", mlp_width=176)
    config.model.pattern = ("rglru", "rglru", "window")
    config.model.mixers.window = dict(kind="attention", kv_heads=1, window=64)
    return config
