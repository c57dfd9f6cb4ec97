"""Parity beyond the training length, by the eigenvalues that a recurrence may have.

    python run.py compare experiments/parity_eigenrange.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (minutes on two CPU cores), full (accelerators:
the paper's lengths and supervision at every place).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, at_least, at_most

QUESTION = (
    "Does a linear recurrent network keep the parity of bit strings longer than any it "
    "was trained on only if its transitions may have negative eigenvalues?"
)
PAPER = (
    "Grazzi et al. 2024, arXiv 2411.12537, table 3: trained on 3 to 40 bits, scaled "
    "accuracy on 40 to 256 (0 is chance); best of 3 seeds."
)
ARMS = {
    "deltanet-signed": ("signed",),
    "deltanet-positive": ("positive",),
    "mamba": ("mamba",),
    "mlstm": ("mlstm",),
    "slstm": ("slstm",),
    "lstm": ("lstm",),
    "attention": ("nope",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 24_000, by="model.mlp_width")


def runs(tier):
    length = {"smoke": 20, "tiny": 20, "full": 40}[tier]
    tests = {"x2": {"length": 2 * length}, "x4": {"length": 4 * length}}
    # Without a short convolution: with one, a network fits the training length by
    # windows of the last bits first, and then keeps parity less far.
    plain = {"kind": "deltanet", "conv_width": 1}
    config = load(
        "configs/base.py",
        {
            "data.task": {"kind": "parity", "length": length, "tests": tests},
            "data.context": length,
            "train.batch_tokens": 64 * length,
            "train.duration": "1000 steps",
            "eval.rows": 128,
            "model.width": 32,
            "model.mixers.signed": plain | {"eigenvalues": "signed"},
            "model.mixers.positive": plain | {"eigenvalues": "positive"},
            "model.mixers.mamba.chunk": 8,
            "model.mixers.nope": {"kind": "attention", "position": "none"},
        },
    )
    # By what is asked: at training length most rates of most arms solve it.
    by = "validation.x2.accuracy"
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, by=by, tie=0.05)
    if tier == "smoke":
        arms = ("deltanet-signed", "attention")
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), arms)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


BEYOND = "test.x2.accuracy"
CLAIMS = (
    Claim(
        "with eigenvalues in [-1, 1] DeltaNet keeps parity at twice the length",
        at_least(0.95, BEYOND, "deltanet-signed"),
        paper="1.000 scaled",
    ),
    Claim(
        "with eigenvalues in [0, 1] it does not",
        at_most(0.65, BEYOND, "deltanet-positive"),
        paper=".017 scaled",
    ),
    Claim(
        "nor does Mamba, whose eigenvalues are in [0, 1]",
        at_most(0.65, BEYOND, "mamba"),
        paper=".000 scaled",
    ),
    Claim("nor does mLSTM", at_most(0.65, BEYOND, "mlstm"), paper=".087 scaled"),
    Claim("sLSTM does", at_least(0.95, BEYOND, "slstm"), paper="1.000 scaled"),
    Claim("an LSTM does", at_least(0.95, BEYOND, "lstm")),
    Claim(
        "attention does not", at_most(0.65, BEYOND, "attention"), paper=".022 scaled"
    ),
)
