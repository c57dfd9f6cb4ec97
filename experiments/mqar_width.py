"""Multi-query associative recall against the width of the model.

    python run.py compare experiments/mqar_width.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: shorter rows, fewer tokens), full
(accelerators: rows and widths of the paper's figure 2 at length 256).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, at_least, at_most, lower

QUESTION = (
    "Does attention recall key-value pairs at every width, and a recurrent network "
    "only where it is wide enough?"
)
PAPER = (
    "Arora et al. 2023, Zoology, arXiv 2312.04927, figure 2: attention 1.0 at every "
    "width; at length 256 H3 .08, .65, .62, .67 and RWKV .05, .06, .68, .80 at widths "
    "64 to 512. Arora et al. 2024, Based, arXiv 2402.18668: at equal state DeltaNet "
    "before Mamba-2."
)
ARMS = {
    "attention": ("nope",),
    "deltanet": ("delta",),
    "mamba2": ("mamba2",),
    "lstm": ("lstm",),
}
CELLS = {
    "d16": {"model.width": 16},
    "d32": {"model.width": 32},
    "d64": {"model.width": 64},
}
TUNE = "per cell"
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("width")


def runs(tier):
    length, pairs, vocabulary = {
        "smoke": (32, 4, 64),
        "tiny": (64, 8, 128),
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
            # As in the paper two layers without MLP; a convolution before each mixer
            # as in Based, in every arm.
            "model.mlp": "none",
            "model.conv_width": 3,
            "model.mixers.nope": {"kind": "attention", "position": "none", "heads": 1},
            "model.mixers.delta": {"kind": "deltanet", "conv_width": 1, "heads": 1},
            "model.mixers.mamba2": {"head_width": 16, "state_width": 16},
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm"))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, tie=0.01)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


ACCURACY = "test.same.accuracy"
CLAIMS = (
    Claim(
        "attention recalls at every width",
        at_least(0.99, ACCURACY, "attention"),
        paper="1.0",
    ),
    Claim(
        "an LSTM of width 16 does not recall",
        at_most(0.5, ACCURACY, "lstm@d16"),
    ),
    Claim(
        "Mamba-2 of width 16 recalls less than attention",
        lower("mamba2@d16", "attention@d16", ACCURACY, by=0.1),
    ),
    Claim(
        "Mamba-2 recalls more at width 64 than at 16",
        lower("mamba2@d16", "mamba2@d64", ACCURACY),
    ),
    Claim(
        "DeltaNet recalls more than Mamba-2 at width 16",
        lower("mamba2@d16", "deltanet@d16", ACCURACY),
    ),
)
