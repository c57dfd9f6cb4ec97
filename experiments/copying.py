"""Copying a string: at training length, exactly, and beyond it.

    python run.py compare experiments/copying.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: strings of up to 12), full (accelerators:
strings of up to 50, as in the paper's figure on length).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, at_least, at_most, lower

QUESTION = (
    "Do attention and recurrent networks of equal size, data and steps learn to copy a "
    "string, and do they copy longer ones than they were trained on?"
)
PAPER = (
    "Jelassi et al. 2024, Repeat after me, arXiv 2402.01032 (figures, no tables): "
    "attention learns it from a hundredth of the samples; of models trained on up to "
    "50 letters, Mamba and the LSTM drop to 0 at once beyond, attention decays slowly."
)
ARMS = {
    "attention": ("nope",),
    "deltanet": ("delta",),
    "mamba2": ("mamba2",),
    "lstm": ("lstm",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 72_000, by="model.mlp_width")


def runs(tier):
    length, shortest = {"smoke": (6, 2), "tiny": (12, 4), "full": (50, 5)}[tier]
    sizes = {"full": length, "longer": length * 3 // 2, "x2": 2 * length}
    tests = {name: {"length": size} for name, size in sizes.items()}
    task = {"kind": "copying", "length": length, "shortest": shortest, "tests": tests}
    tokens = 2 * length + 2
    config = load(
        "configs/base.py",
        {
            "data.task": task,
            "data.context": tokens,
            "train.batch_tokens": 64 * tokens,
            "train.duration": "1000 steps",
            "eval.rows": 128,
            "model.conv_width": 3,
            "model.mixers.nope": {"kind": "attention", "position": "none", "heads": 1},
            "model.mixers.delta": {"kind": "deltanet", "conv_width": 1, "heads": 2},
            "model.mixers.mamba2": {"head_width": 16, "state_width": 16},
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm"))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, tie=0.01)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


CLAIMS = (
    Claim(
        "attention copies the longest strings of training exactly",
        at_least(0.9, "test.full.exact", "attention"),
    ),
    Claim(
        "attention copies half the strings of twice the length exactly",
        at_least(0.5, "test.x2.exact", "attention"),
        paper="decays slowly to 1,000 from 50",
    ),
    Claim(
        "an LSTM copies none of the longest strings of training",
        at_most(0.1, "test.full.exact", "lstm"),
        paper="never learns 300 letters",
    ),
    Claim(
        "Mamba-2 copies less than attention at training length",
        lower("mamba2", "attention", "test.full.exact", by=0.1),
    ),
    Claim(
        "Mamba-2 copies next to nothing of twice the length",
        at_most(0.1, "test.x2.exact", "mamba2"),
        paper="Mamba: 0 at once",
    ),
    Claim(
        "DeltaNet copies next to nothing of twice the length",
        at_most(0.1, "test.x2.exact", "deltanet"),
    ),
)
