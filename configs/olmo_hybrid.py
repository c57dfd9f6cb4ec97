"""python run.py train --config=configs/olmo_hybrid.py --workdir=runs/olmo_hybrid

OLMo Hybrid: three layers of Gated DeltaNet (arXiv 2412.06464), with eigenvalues down to
-1 (arXiv 2411.12537), to one of OLMo 2's attention, here without positions.

2.23 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("olmo_hybrid")
    config.model.update(width=96, depth=4, mlp_width=144, block="olmo", norm_eps=1e-6)
    config.model.pattern = (*3 * ("gated_deltanet",), "attention")
    config.model.mixers.gated_deltanet = dict(heads=4, eigenvalues="signed")
    config.model.mixers.attention = dict(heads=4, qk_norm="rms_all", position="none")
    return config
