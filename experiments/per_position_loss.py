"""Loss by position: what a text that comes again is worth to a model.

    python run.py compare experiments/per_position_loss.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: segments of text planted twice in a row,
since at a CPU's budget plain text shows no late gain of attention), full (accelerators:
plain text of 1,024 tokens, as in the paper).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, lower

QUESTION = (
    "Does attention gain from text far back in its context what a recurrent network of "
    "equal size does not?"
)
PAPER = (
    "Kaplan et al. 2020, arXiv 2001.08361, figure 7 (no table): LSTMs do as well as "
    "transformers for tokens early in the context and cannot match them later; they "
    "stop gaining after less than 100 tokens."
)
ARMS = {
    "attention": ("attention",),
    "lstm": ("lstm",),
    "deltanet": ("deltanet",),
    "lstm+attention": ("lstm", "attention"),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 110_000, by="model.mlp_width")


def runs(tier):
    segment = {"smoke": 16, "tiny": 64}[tier]
    tests = {
        "first": {"segment": segment, "scored": "first"},
        "second": {"segment": segment, "scored": "second"},
    }
    task = {"kind": "repeats", "segment": segment, "scored": "all", "tests": tests}
    config = load(
        "configs/base.py",
        {
            "data.task": task,
            "data.context": 2 * segment,
            "train.batch_tokens": 32 * 2 * segment,
            "train.duration": "400 steps",
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm"))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6)
    return Runs(config, (0, 1, 2), ladder, (MATCH,))


FIRST, SECOND = "test.first.nats_per_token", "test.second.nats_per_token"
CLAIMS = (
    Claim(
        "an LSTM predicts the first copy as well as attention or better",
        lower("lstm", "attention", FIRST),
        paper="as well early in the context",
    ),
    Claim(
        "attention predicts the second copy better, by half a nat a byte at least",
        lower("attention", "lstm", SECOND, by=0.5),
        paper="LSTMs cannot match it later",
    ),
    Claim(
        "one layer of attention above an LSTM is enough for the second copy",
        lower("lstm+attention", "lstm", SECOND, by=0.5),
    ),
)
