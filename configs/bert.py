"""python run.py train --config=configs/bert.py --workdir=runs/bert

BERT (Devlin et al. 2018, arXiv 1810.04805): bidirectional attention, LayerNorm after
each residual sum, learned positions, and whole words of the text masked. Then

    python run.py fill --workdir=runs/bert --text="And God [MASK] the light"

Of the masked tokens of test text it tells 29 % after its 3,500 updates, eleven minutes
on two cores of an AMD EPYC. For the first 1,000 it learns little: at 1,050 it tells
16 % of validation text.

`configs/bert.py:base` is the published size, 110M parameters with BERT's own 30,522
tokens, which are another text's: give data.corpus and a tokenizer. Left out: a second
sentence and whether it follows, which RoBERTa (arXiv 1907.11692) found to be of no use.
"""

from configs import base


def get_config(size: str = "tiny"):
    # size: depth, width, heads, context, rows, updates, lr, tokens of BPE
    sizes = {
        "tiny": (3, 96, 3, 64, 64, 3_500, 4e-3, 1024),
        "base": (12, 768, 12, 512, 256, 1_000_000, 1e-4, 30_522),
    }
    if size not in sizes:
        raise ValueError(f"size {size!r}: valid are {', '.join(sizes)}")
    depth, width, heads, context, rows, updates, lr, vocabulary = sizes[size]
    config = base.get_config()
    config.name = f"bert-{size}"
    config.data.update(context=context, tokenizer="bpe", vocab_size=vocabulary)
    config.data.task = dict(kind="masked", length=context)
    config.model.update(depth=depth, width=width, mlp_width=4 * width, norm_eps=1e-12)
    config.model.update(block="post_norm", norm="layernorm", bias=True)
    config.model.update(mlp="gelu_exact", position="learned", embedding_norm=True)
    config.model.update(token_types=2, output_layer="transform", output_bias=True)
    config.model.mixers.attention = dict(
        heads=heads, position="none", bias=True, causal=False
    )
    config.train.update(duration=f"{updates} steps", batch_tokens=rows * context)
    config.optim.update(lr=lr, b2=0.999, weight_decay=0.01, schedule="linear")
    config.optim.update(final_lr=0.0, warmup="10%")
    return config
