"""python run.py train --config=configs/wiki40b_en.py --workdir=runs/wiki40b_en

English Wikipedia, cleaned (Guo et al. 2020, Wiki-40B) through TFDS, to be prepared
once: run it and it says how. A document is an article; the lines _START_ARTICLE_,
_START_SECTION_, _START_PARAGRAPH_ and the word _NEWLINE_ are the set's own marks. The
first 100,000 of 2.9 million articles.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "wiki40b_en"
    config.data.update(corpus="tfds", path="wiki40b/en", tfds_split="train[:100000]")
    config.data.update(split=(0.98, 0.01, 0.01), eval_bytes=1_000_000, context=512)
    config.model.update(width=256, depth=6, pattern=("rglru", "rglru", "attention"))
    config.model.update(mlp_width=512)
    config.optim.lr = 2e-3
    config.train.update(duration="200M tokens", batch_tokens=32_768)
    return config
