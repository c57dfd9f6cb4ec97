"""python run.py count --config=configs/gpt3.py:davinci

GPT-3's family (Brown et al. 2020, arXiv 2005.14165, table 2.1): GPT-2's blocks, layers
of attention over all of 2,048 tokens and over a band in turn. Names are the table's
(small, medium, large, xl, 2.7b, 6.7b, 13b, 175b) and those of the models that were
served, by size: ada is medium, babbage xl, curie 6.7b, davinci 175b.

The paper does not say how wide the band is; here it is 256 tokens, and costs no
parameters. The table's 24 heads of 128 in xl and width of 5,140 in 13b do not fit the
figures beside them: here 16 heads of 128 and 5,120.
"""

from configs import base

# depth, width, heads, features of a head, tokens of a batch, learning rate
SIZES = {
    "small": (12, 768, 12, 64, 2**19, 6e-4),
    "medium": (24, 1024, 16, 64, 2**19, 3e-4),
    "large": (24, 1536, 16, 96, 2**19, 2.5e-4),
    "xl": (24, 2048, 16, 128, 2**20, 2e-4),
    "2.7b": (32, 2560, 32, 80, 2**20, 1.6e-4),
    "6.7b": (32, 4096, 32, 128, 2**21, 1.2e-4),
    "13b": (40, 5120, 40, 128, 2**21, 1e-4),
    "175b": (96, 12288, 96, 128, 3 * 2**20, 0.6e-4),
}
SERVED = {"ada": "medium", "babbage": "xl", "curie": "6.7b", "davinci": "175b"}


def get_config(size: str = "small"):
    name = SERVED.get(size, size)
    if name not in SIZES:
        raise ValueError(f"size {size!r}: valid are {', '.join((*SIZES, *SERVED))}")
    depth, width, heads, head_width, batch_tokens, lr = SIZES[name]
    config = base.get_config()
    config.name = f"gpt3-{size}"
    config.data.context = 2048
    config.train.update(duration="300B tokens", batch_tokens=batch_tokens)
    config.train.micro_tokens = 2**14
    config.optim.update(lr=lr, warmup="375M tokens", b2=0.95, weight_decay=0.1)
    config.model.update(depth=depth, width=width, mlp="gelu", mlp_width=4 * width)
    config.model.update(norm="layernorm", norm_eps=1e-5, bias=True, position="learned")
    own = dict(heads=heads, head_width=head_width, position="none", bias=True)
    config.model.update(pattern=("attention", "band"))
    config.model.mixers.attention = own
    config.model.mixers.band = dict(kind="attention", window=256, **own)
    return config
