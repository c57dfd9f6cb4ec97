"""Selective copying: is it the selection in Mamba that solves it, or the gate around?

    python run.py compare experiments/selective_copying.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: 32 tokens), full (accelerators: 1,024
tokens and 16 to be copied, a quarter of the paper's length).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, at_least, lower

QUESTION = (
    "Does copying only the tokens that are not noise need a recurrence that follows "
    "from its input, or is a gate around a time-invariant one enough?"
)
PAPER = (
    "Gu and Dao 2023, Mamba, arXiv 2312.00752, table 1, accuracy at 4,096 tokens: S4 "
    "18.3 without a gate, 56.4 with Mamba's; S6 97.0 and 99.8."
)
ARMS = {
    "selective+gate": ("mamba",),
    "selective": ("ungated",),
    "constant+gate": ("constant",),
    "constant": ("constant_ungated",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 26_000, by="model.mlp_width")


def runs(tier):
    length, items = {"smoke": (16, 2), "tiny": (32, 6), "full": (1024, 16)}[tier]
    tokens = length + items
    mamba = {"kind": "mamba", "chunk": 8}
    constant = mamba | {"selection": "none"}
    config = load(
        "configs/base.py",
        {
            "data.task": {
                "kind": "selective_copying",
                "length": length,
                "items": items,
            },
            "data.context": tokens,
            "train.batch_tokens": 32 * tokens,
            "train.duration": "1500 steps",
            "eval.rows": 128,
            "model.width": 32,
            "model.mixers.mamba.chunk": 8,
            "model.mixers.ungated": mamba | {"gate": "none"},
            "model.mixers.constant": constant,
            "model.mixers.constant_ungated": constant | {"gate": "none"},
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("selective", "constant"))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, tie=0.01)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


ACCURACY = "test.same.accuracy"
CLAIMS = (
    Claim(
        "a recurrence with selection alone solves it",
        at_least(0.95, ACCURACY, "selective"),
        paper="97.0",
    ),
    Claim(
        "a recurrence with selection and a gate solves it",
        at_least(0.95, ACCURACY, "selective+gate"),
        paper="99.8",
    ),
    Claim(
        "selection does more than a gate does",
        lower("constant+gate", "selective", ACCURACY, by=0.1),
        paper="56.4 against 97.0",
    ),
    Claim(
        "a gate helps a recurrence without selection",
        lower("constant", "constant+gate", ACCURACY),
        paper="18.3 against 56.4",
    ),
)
