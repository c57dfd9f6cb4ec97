"""python run.py train --config=configs/gpt2.py --workdir=runs/gpt2

GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU MLP of 4 D, biases,
tied head. `configs/gpt2.py:124M` is the published size, which has 124M parameters with
GPT-2's own 50,257 tokens and fewer with bytes.
"""

from configs import base


def get_config(size: str = "tiny"):
    # size: depth, width, heads, context, tokens of a batch, tokens of a micro-batch, lr
    sizes = {
        "tiny": (2, 64, 4, 128, 2048, None, 6e-3),
        "124M": (12, 768, 12, 1024, 2**19, 2**14, 6e-4),
    }
    if size not in sizes:
        raise ValueError(f"size {size!r}: valid are {', '.join(sizes)}")
    depth, width, heads, context, batch_tokens, micro_tokens, lr = sizes[size]
    config = base.get_config()
    config.name = f"gpt2-{size}"
    config.data.context = context
    config.train.update(batch_tokens=batch_tokens, micro_tokens=micro_tokens)
    config.optim.lr = lr
    config.model.update(depth=depth, width=width, mlp="gelu", mlp_width=4 * width)
    config.model.update(norm="layernorm", norm_eps=1e-5, bias=True, position="learned")
    config.model.mixers.attention = dict(heads=heads, position="none", bias=True)
    return config
