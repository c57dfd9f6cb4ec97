"""python run.py train --config=configs/linear_attention.py --workdir=runs/linear

The linear transformer (Katharopoulos et al. 2020, arXiv 2006.16236): elu(x) + 1 for the
softmax's exponential.
"""

from configs import base


def get_config():
    config = base.small("linear_attention")
    config.model.update(pattern=("linear_attention",), mlp_width=304)
    return config
