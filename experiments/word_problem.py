"""The word problem of S3: one layer that keeps the product of all elements so far.

    python run.py compare experiments/word_problem.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: S3, 16 elements), full (accelerators: S3
as in DeltaProduct's figure, 128 elements).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, at_least, at_most

QUESTION = (
    "Which single layers follow the product of permutations of three points further "
    "than they were trained: a nonlinear recurrence, one Householder step a token or "
    "two, or attention?"
)
PAPER = (
    "Siems et al. 2025, DeltaProduct, arXiv 2502.10297: one layer on S3 needs two "
    "Householder steps and eigenvalues in [-1, 1]; Merrill et al. 2024, arXiv "
    "2404.08819: one layer of a nonlinear RNN suffices, transformers and Mamba do not."
)
ARMS = {
    "lstm": ("lstm",),
    "deltaproduct-2": ("two",),
    "deltaproduct-1": ("one",),
    "deltaproduct-2-positive": ("two_positive",),
    "mamba": ("mamba",),
    "attention": ("nope",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 60_000, by="model.mlp_width")


def runs(tier):
    length = {"smoke": 16, "tiny": 16, "full": 128}[tier]
    tests = {"x2": {"length": 2 * length}, "x4": {"length": 4 * length}}
    plain = {
        "kind": "deltaproduct",
        "conv_width": 1,
        "decay": "none",
        "key_expand": 1.0,
    }
    two = plain | {"value_expand": 1.0}
    config = load(
        "configs/base.py",
        {
            "data.task": {"kind": "word_problem", "length": length, "tests": tests},
            "data.context": length,
            "train.batch_tokens": 48 * length,
            "train.duration": "3000 steps",
            "eval.rows": 128,
            "model.depth": 1,
            "model.mixers.mamba.chunk": 8,
            "model.mixers.one": two | {"householders": 1},
            "model.mixers.two": two,
            "model.mixers.two_positive": two | {"eigenvalues": "positive"},
            "model.mixers.nope": {"kind": "attention", "position": "none"},
        },
    )
    if tier == "smoke":
        config.train.duration = "8 steps"
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("deltaproduct-2", "attention"))
    # By what is asked, and with two seeds: at one rate some seeds of an LSTM solve it
    # and others do not. Half decades and a tie, since it solves at rates up to .15
    # while DeltaProduct's best are below .006, and arms at chance differ by noise.
    by, seeds = "validation.x4.accuracy", (1000, 1001)
    ladder = Ladder(start=5e-4, ratio=10**0.5, rungs=6, seeds=seeds, by=by, tie=0.03)
    return Runs(config, (0, 1, 2, 3, 4), ladder, (MATCH,))


FAR = "test.x4.accuracy"
CLAIMS = (
    Claim(
        "an LSTM keeps the product over four times the training length",
        at_least(0.99, FAR, "lstm"),
    ),
    Claim(
        "DeltaNet with one Householder step a token does not keep it",
        at_most(0.6, FAR, "deltaproduct-1"),
        paper="does not converge",
    ),
    Claim(
        "DeltaProduct with two and eigenvalues in [-1, 1] keeps it",
        at_least(0.99, FAR, "deltaproduct-2"),
        paper="solves 128 elements, and more",
    ),
    Claim(
        "DeltaProduct with two and eigenvalues in [0, 1] does not",
        at_most(0.6, FAR, "deltaproduct-2-positive"),
        paper="does not converge",
    ),
    Claim("Mamba does not keep it", at_most(0.6, FAR, "mamba")),
    Claim("attention does not keep it", at_most(0.6, FAR, "attention")),
)
