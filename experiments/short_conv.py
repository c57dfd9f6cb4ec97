"""What a convolution over three tokens before a mixer does for recall.

    python run.py compare experiments/short_conv.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU), full (accelerators).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, lower

QUESTION = (
    "How much of the recall of attention and of recurrent networks comes from a short "
    "convolution before them?"
)
PAPER = (
    "Yang et al. 2024, arXiv 2412.06464, table S.1: Gated DeltaNet of 400M has a "
    "perplexity of 27.35, without short convolutions 28.95; Arora et al. 2024, Based, "
    "arXiv 2402.18668: its recall falls from 29.16 to 24.66 without them."
)
ARMS = {
    "attention": ("rope",),
    "deltanet": ("delta",),
    "gated-deltanet": ("gated_delta",),
    "lstm": ("lstm",),
}
CELLS = {
    "none": {"model.conv_width": 1},
    "conv3": {"model.conv_width": 3},
}
TUNE = "per cell"
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("width")


def runs(tier):
    length, pairs, vocabulary = {
        "smoke": (32, 4, 64),
        "tiny": (48, 8, 64),
        "full": (256, 16, 8192),
    }[tier]
    task = {"kind": "mqar", "length": length, "pairs": pairs, "vocabulary": vocabulary}
    config = load(
        "configs/base.py",
        {
            "data.task": task,
            "data.context": length,
            "train.batch_tokens": 32 * length,
            "train.duration": "1000 steps",
            "eval.rows": 128,
            "model.mlp": "none",
            "model.width": 32,
            "model.mixers.rope": {"kind": "attention", "heads": 1},
            "model.mixers.delta": {"kind": "deltanet", "conv_width": 1, "heads": 1},
            "model.mixers.gated_delta": {
                "kind": "gated_deltanet",
                "conv_width": 1,
                "heads": 1,
                "key_expand": 1.0,
                "value_expand": 1.0,
            },
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm"))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, tie=0.01)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


ACCURACY = "test.same.accuracy"
CLAIMS = tuple(
    Claim(
        f"{name} recalls more with a convolution",
        lower(f"{arm}@none", f"{arm}@conv3", ACCURACY),
        paper=paper,
    )
    for arm, name, paper in (
        ("attention", "attention", ""),
        ("deltanet", "DeltaNet", ""),
        ("gated-deltanet", "Gated DeltaNet", "perplexity 27.35, without 28.95"),
        ("lstm", "an LSTM", ""),
    )
)
