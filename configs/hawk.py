"""python run.py train --config=configs/hawk.py --workdir=runs/hawk

Hawk (De et al. 2024, arXiv 2402.19427): RG-LRU layers alone, a GeGLU MLP; a recurrence
as wide as the model.

2.19 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("hawk")
    config.model.update(pattern=("rglru",), mlp="geglu", mlp_width=320)
    return config
