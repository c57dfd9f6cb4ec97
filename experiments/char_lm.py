"""Characters of English: were RNNs all we needed?

    python run.py compare experiments/char_lm.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (minutes on two CPU cores), full (accelerators:
nanoGPT's size and context, as in the paper).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, equal, lower

QUESTION = (
    "Do recurrent networks whose gates see the input alone predict characters as well "
    "as those whose gates see the state, as Mamba and as attention?"
)
PAPER = (
    "Feng et al. 2024, Were RNNs all we needed?, arXiv 2410.01201, section 4: test "
    "loss on tiny Shakespeare in nats: minGRU 1.548, minLSTM 1.555, Mamba 1.575, "
    "transformer 1.547; the transformer takes 2.5 times the steps."
)
ARMS = {
    "mingru": ("mingru",),
    "minlstm": ("minlstm",),
    "gru": ("gru",),
    "lstm": ("lstm",),
    "mamba": ("mamba",),
    "attention": ("attention",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 150_000, by="model.mlp_width")


def runs(tier):
    config = load(
        "configs/base.py",
        {
            "data.tokenizer": "characters",
            "data.train_bytes": 1_000_000,  # about tiny Shakespeare's
            "data.eval_bytes": 65_536,
            "model.depth": 3,
            "train.duration": "500 steps",
        },
    )
    ladder = Ladder(start=1e-3, ratio=2, rungs=6)
    if tier == "smoke":
        config.train.duration, config.data.eval_bytes = "8 steps", 8_192
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("mingru", "attention"))
    if tier == "tiny":
        return Runs(config, (0, 1, 2), ladder, (MATCH,))
    if tier == "full":
        config.data.update(context=256)
        config.model.update(width=384, depth=3, residual_dropout=0.2)
        config.train.update(batch_tokens=64 * 256, duration="5000 steps")
        match = Match("params_non_embedding", 6_000_000, by="model.mlp_width")
        ladder = Ladder(start=1.25e-4, ratio=2, rungs=6)
        return Runs(config, (0, 1, 2, 3, 4), ladder, (match,))
    raise KeyError(tier)


CLAIMS = (
    Claim(
        "minGRU predicts as well as GRU, within 0.02 bits per byte",
        equal("mingru", "gru"),
    ),
    Claim(
        "minLSTM predicts as well as LSTM, within 0.02 bits per byte",
        equal("minlstm", "lstm"),
    ),
    Claim(
        "minGRU predicts as well as Mamba or better, within 0.02 bits per byte",
        equal("mingru", "mamba"),
        paper="1.548 against 1.575 nats a character",
    ),
    Claim(
        "minGRU predicts as well as attention, within 0.02 bits per byte",
        equal("mingru", "attention"),
        paper="1.548 against 1.547 nats a character",
    ),
    Claim(
        "minGRU is ahead of attention at this budget",
        lower("mingru", "attention"),
        paper="the transformer takes 2.5 times the steps",
    ),
)
