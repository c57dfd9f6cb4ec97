"""python run.py train --config=configs/c4.py --workdir=runs/c4

C4, English (Raffel et al. 2020, arXiv 1910.10683) through TFDS, to be prepared once:
run it and it says how. Its preparation is a Beam pipeline over a whole crawl of the
web, a cluster's work. A document is a page; the first 200,000 of 365 million, about
430 MB.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "c4"
    config.data.update(corpus="tfds", path="c4/en", tfds_split="train[:200000]")
    config.data.update(split=(0.98, 0.01, 0.01), eval_bytes=1_000_000, context=512)
    config.model.update(width=256, depth=6, pattern=("rglru", "rglru", "attention"))
    config.model.update(mlp_width=512)
    config.optim.lr = 2e-3
    config.train.update(duration="200M tokens", batch_tokens=32_768)
    return config
