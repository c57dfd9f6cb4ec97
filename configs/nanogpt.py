"""python run.py train --config=configs/nanogpt.py:PATH --workdir=runs/nanogpt

nanoGPT's setting for a CPU (github.com/karpathy/nanoGPT, README: Shakespeare on a
laptop), on the text file at PATH, over bytes instead of characters. On the text of the
default corpus in a file, 3.77 MB of it for training: 1.555 nats a byte of validation
text after 119 s of training (0.83M parameters; AMD EPYC, 2 cores). nanoGPT's own 1.88
in about 3 minutes is of another text, so the losses do not compare.
"""

from configs import gpt2


def get_config(path: str):
    config = gpt2.get_config()
    config.name = "nanogpt"
    config.data.update(corpus="text", path=path, context=64)
    config.model.update(depth=4, width=128, mlp_width=512, bias=False)
    config.model.mixers.attention.bias = False
    config.optim.update(lr=1e-3, final_lr=0.1, warmup="100 steps", b2=0.99)
    config.train.update(duration="2000 steps", batch_tokens=12 * 64)
    return config
