"""python run.py train --config=configs/gpt_oss.py --workdir=runs/gpt_oss

The attention of gpt-oss (arXiv 2508.10925): a learned sink in each head's softmax,
windows and full attention by turns; a dense MLP instead of experts.

2.40 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("gpt_oss")
    config.model.update(pattern=("window", "attention"), mlp_width=352)
    config.model.mixers.window = dict(
        kind="attention", heads=4, kv_heads=2, window=32, sinks=True, bias=True
    )
    config.model.mixers.attention = dict(heads=4, kv_heads=2, sinks=True, bias=True)
    return config
