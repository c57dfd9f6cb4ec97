"""python run.py train --config=configs/lm1b.py --workdir=runs/lm1b

The One Billion Word Benchmark (Chelba et al. 2013, arXiv 1312.3005) through TFDS, to be
prepared once: run it and it says how. A document is a sentence, already tokenised by
words; sentences are shuffled, so that nothing carries over from one to the next. The
first two million of 30 million sentences, about 270 MB.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "lm1b"
    config.data.update(corpus="tfds", path="lm1b", tfds_split="train[:2000000]")
    config.data.update(split=(0.98, 0.01, 0.01), eval_bytes=1_000_000)
    config.model.update(width=256, depth=4, pattern=("lstm", "attention"))
    config.model.update(mlp_width=512)
    config.model.mixers.attention = dict(position="none")
    config.optim.lr = 2e-3
    config.train.update(duration="100M tokens", batch_tokens=16_384)
    return config
