"""python run.py train --config=configs/hedgehog.py --workdir=runs/hedgehog

Hedgehog (Zhang et al. 2024, arXiv 2402.04347): linear attention whose feature map is
learned, a softmax over features and their negatives; rotary positions as in
linear_attention.py.
"""

from configs import base


def get_config():
    config = base.small("hedgehog")
    config.model.update(pattern=("linear_attention",), mlp_width=288)
    config.model.mixers.linear_attention = dict(feature_map="hedgehog", position="rope")
    return config
