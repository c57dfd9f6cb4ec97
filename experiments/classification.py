"""Which of three translations is a verse from?

    python run.py compare experiments/classification.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: small models, an eighth of an epoch).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, beats, lower

QUESTION = (
    "Which networks, trained on sequences, tell translations apart that a bag of words "
    "does not?"
)
PAPER = (
    "Carlson, Riddell and Rockmore 2018, arXiv 1711.04731: translations of one text as "
    "a corpus of styles; no figures on this task."
)
ARMS = {
    "attention": ("attention",),
    "lstm": ("lstm",),
    "mamba2": ("mamba2",),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 120_000, by="model.mlp_width")


def runs(tier):
    context = 64
    task = {"kind": "text_to_text", "length": context, "metric": "exact"}
    config = load(
        "configs/base.py",
        {
            "data.corpus": "which_translation",
            "data.tokenizer": "bpe",
            "data.vocab_size": 2048,
            "data.task": task | {"held_out": 2000},
            "data.context": context,
            "train.batch_tokens": 32 * context,
            "train.duration": "300 steps",
            "eval.every": "50%",
        },
    )
    if tier == "smoke":
        config.train.duration, config.data.task.held_out = "6 steps", 64
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm"))
    if tier != "tiny":
        raise KeyError(tier)
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, by="validation.same.nats_per_token")
    return Runs(config, (0, 1, 2), ladder, (MATCH,))


RIGHT = "test.same.exact"
BEATS = "{} is right more often than {}"
CLAIMS = (
    *(
        Claim(BEATS.format(a, "the majority"), beats(a, "majority", RIGHT))
        for a in ARMS
    ),
    *(
        Claim(BEATS.format(arm, "a bag of words"), beats(arm, "bag_of_words", RIGHT))
        for arm in ARMS
    ),
    Claim(
        "an LSTM's labels cost fewer nats than attention's",
        lower("lstm", "attention", "test.same.nats_per_token"),
    ),
)
