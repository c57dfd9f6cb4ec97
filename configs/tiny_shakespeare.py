"""python run.py train --config=configs/tiny_shakespeare.py --workdir=runs/shakespeare

1.1 MB of Shakespeare's plays (Karpathy 2015, char-rnn) through TFDS, to be prepared
once: run it and it says how. TFDS cuts one file in three, 90, 5 and 5 %; read end to
end and cut by data.split, the text is cut at the same places but for a few bytes.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "tiny_shakespeare"
    config.data.update(corpus="tfds", path="tiny_shakespeare")
    config.data.tfds_split = "train+validation+test"
    config.model.update(width=128, pattern=("lstm", "attention"), mlp_width=224)
    config.model.mixers.attention = dict(position="none")
    config.optim.lr = 4e-3
    config.train.update(duration="1000 steps", batch_tokens=4096)
    return config
