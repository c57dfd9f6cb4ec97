"""python run.py train --config=configs/hawk.py --workdir=runs/hawk

Hawk (De et al. 2024, arXiv 2402.19427): RG-LRU layers alone, MLP of 3 D; SwiGLU instead
of GeGLU, and a recurrence as wide as the model.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "hawk"
    config.model.update(pattern=("rglru",), mlp_width=192)
    return config
