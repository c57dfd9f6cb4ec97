"""python run.py train --config=configs/gemma2.py --workdir=runs/gemma2

Gemma 2 (arXiv 2408.00118): local and global attention by turns, logits capped at 50 by
a tanh, GeGLU.

2.41 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("gemma2")
    config.model.update(pattern=("window", "attention"), mlp="geglu", mlp_width=352)
    config.model.mixers.window = dict(
        kind="attention", heads=4, kv_heads=2, window=64, soft_cap=50.0
    )
    config.model.mixers.attention = dict(heads=4, kv_heads=2, soft_cap=50.0)
    return config
