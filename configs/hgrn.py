"""python run.py train --config=configs/hgrn.py --workdir=runs/hgrn

HGRN (Qin et al. 2023, arXiv 2311.04823): forget gates with lower bounds that rise from
layer to layer; real-valued.

2.20 bits per byte of test text, with 0.40M parameters.
"""

from configs import base


def get_config():
    config = base.small("hgrn")
    config.model.update(pattern=("hgrn",), depth=2, mlp_width=304)
    return config
