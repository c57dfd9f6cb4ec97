"""python run.py train --config=configs/qwen3_next.py --workdir=runs/qwen3_next

Qwen3-Next: three layers of Gated DeltaNet to one of attention with an output gate
(arXiv 2505.06708), normed queries and keys, RoPE on a quarter of each head; a dense MLP
instead of experts.

2.25 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("qwen3_next")
    config.model.update(width=96, depth=4, mlp_width=144)
    config.model.pattern = (*3 * ("gated_deltanet",), "attention")
    config.model.mixers.attention = dict(
        heads=4, kv_heads=2, qk_norm="rms_head", gate="sigmoid", rope_fraction=0.25
    )
    return config
