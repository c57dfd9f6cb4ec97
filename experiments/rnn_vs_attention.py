"""Recurrent, attention and hybrid language models on one text, at one budget.

    python run.py compare experiments/rnn_vs_attention.py --tier=tiny --out=runs/demo

Tiers: smoke (a minute, proves that it runs), tiny (minutes on two CPU cores, one stated
rate), small (hours on two cores: all arms, the rates tuned, two matchings).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, beats, lower

QUESTION = (
    "At equal parameters and equal data, does a recurrent language model predict "
    "English text as well as attention does, and does one layer of each beat both?"
)
PAPER = (
    "Melis, Dyer and Blunsom 2018, arXiv 1707.05589: a well-tuned LSTM holds its own. "
    "De et al. 2024, arXiv 2402.19427: RG-LRU with local attention matches attention."
)
ARMS = {
    "attention": ("attention",),
    "lstm": ("lstm",),
    "lstm+attention": ("lstm", "attention"),
    "rglru+window": ("rglru", "window"),
    "gru": ("gru",),
    "rglru": ("rglru",),
    "rglru+rglru+window": ("rglru", "rglru", "window"),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params", 130_000, by="model.mlp_width")


def runs(tier):
    text = {"data.train_bytes": 1_228_800, "data.eval_bytes": 65_536}
    changes = {
        "smoke": text | {"train.duration": "8 steps", "data.eval_bytes": 8_192},
        "tiny": text,
        "small": {
            "data.eval_bytes": 65_536,
            "model.width": 96,
            "model.depth": 6,
            "train.duration": "600 steps",
        },
    }[tier]
    window = {"model.mixers.window": {"kind": "attention", "window": 64}}
    config = load("configs/base.py", window | changes)
    if tier == "smoke":
        return Runs(config, (0, 1), 6e-3, (MATCH,), ("attention", "lstm"))
    if tier == "tiny":
        arms = ("attention", "lstm", "lstm+attention", "rglru+window")
        return Runs(config, (0, 1, 2), 6e-3, (MATCH,), arms)
    larger = Match("params", 640_000, by="model.mlp_width")
    ladder = Ladder(start=5e-4, ratio=2, rungs=6)
    return Runs(config, (0, 1, 2), ladder, (larger, Match("width")))


CLAIMS = (
    Claim(
        "an LSTM predicts better than attention at this budget",
        lower("lstm", "attention"),
    ),
    Claim(
        "LSTM and attention together predict better than attention alone",
        lower("lstm+attention", "attention"),
    ),
    Claim(
        "RG-LRU and a window of 64 predict better than attention alone",
        lower("rglru+window", "attention"),
    ),
    Claim("an LSTM beats a 6-gram given the same bytes", beats("lstm", "6-gram")),
    Claim(
        "attention beats a 6-gram given the same bytes", beats("attention", "6-gram")
    ),
)
