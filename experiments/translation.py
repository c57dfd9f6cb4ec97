"""Translation from the English of 1611 to Basic English, verse by verse.

    python run.py compare experiments/translation.py --tier=tiny

Tiers: smoke (proves that it runs), tiny (CPU: small models, half an epoch), full
(accelerators).
"""

from lm.config import load
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, beats, equal, less, lower

QUESTION = (
    "Does a recurrent network with one layer of attention, or a linear recurrence with "
    "one, translate as well as attention alone?"
)
PAPER = (
    "Carlson, Riddell and Rockmore 2018, arXiv 1711.04731: translations of one text as "
    "a task of style transfer; Bahdanau et al. 2015, arXiv 1409.0473: an RNN needs "
    "attention to translate long sentences."
)
ARMS = {
    "attention": ("attention",),
    "lstm+attention": ("lstm", "attention"),
    "gated_deltanet+attention": ("gated_deltanet", "attention"),
}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params_non_embedding", 250_000, by="model.mlp_width")


def runs(tier):
    context, rows, duration = {
        "smoke": (96, 8, "6 steps"),
        "tiny": (96, 32, "500 steps"),
        "full": (192, 256, "30 epochs"),
    }[tier]
    task = {"kind": "text_to_text", "length": context, "metric": "bleu"}
    task |= {"held_out": 500, "tests": {"other": {"sources": "other"}}}
    config = load(
        "configs/base.py",
        {
            "data.corpus": "kjv_bbe",
            "data.tokenizer": "bpe",
            "data.vocab_size": 2048,
            "data.task": task,
            "data.context": context,
            "model.width": 96,
            "train.batch_tokens": rows * context,
            "train.duration": duration,
            "eval.every": "25%",
        },
    )
    if tier == "smoke":
        config.data.task.held_out = 16
        return Runs(config, (0, 1), 4e-3, (MATCH,), ("attention", "lstm+attention"))
    by = "validation.same.nats_per_token"
    if tier == "full":
        config.model.update(depth=8, width=512)
        match = Match("params_non_embedding", 25_000_000, by="model.mlp_width")
        ladder = Ladder(start=1.25e-4, ratio=2, rungs=6, by=by)
        return Runs(config, (0, 1, 2, 3, 4), ladder, (match,))
    ladder = Ladder(start=1e-3, ratio=2, rungs=6, by=by)
    return Runs(config, (0, 1, 2), ladder, (MATCH,))


OWN, OTHER = "test.same.bits_per_byte", "test.other.bits_per_byte"
NEEDS = "{} needs its sources: it codes targets better after their own"
CLAIMS = (
    *(Claim(NEEDS.format(arm), less(arm, OWN, OTHER)) for arm in ARMS),
    Claim(
        "attention translates better than a copy of the source, by BLEU",
        beats("attention", "copy", "test.same.bleu"),
    ),
    Claim(
        "an LSTM below attention codes translations better than attention alone",
        lower("lstm+attention", "attention", OWN),
    ),
    Claim(
        "gated DeltaNet below attention codes them better than attention alone",
        lower("gated_deltanet+attention", "attention", OWN),
    ),
    Claim(
        "an LSTM below attention codes them as well as gated DeltaNet below attention, "
        "within 0.02 bits a byte",
        equal("lstm+attention", "gated_deltanet+attention", OWN),
    ),
)
