"""What the regularisers of AWD-LSTM do for an LSTM that has little text.

    python run.py compare experiments/awd_lstm.py --tier=tiny --out=runs/awd_lstm

Tiers: smoke (proves that it runs), tiny (half an hour on two cores: rates tuned, three
seeds).
"""

from lm.config import load, override
from lm.experiment import Ladder, Match, Runs
from lm.stats import Claim, lower

QUESTION = (
    "Given 500 kB of English, does an LSTM predict better with the regularisers of "
    "AWD-LSTM than without, at the same size, epochs and tuning?"
)
PAPER = (
    "Merity, Keskar and Socher 2018, arXiv 1708.02182: on Penn Treebank (0.9M words) "
    "an LSTM of 24M parameters reaches a test perplexity of 57.3 with all of them; "
    "Zaremba et al. 2014, arXiv 1409.2329, one of 20M with dropout alone 82.7."
)
ARMS = {
    "awd-lstm": {},
    "lstm": {
        "model.word_dropout": 0.0,
        "model.embedding_dropout": 0.0,
        "model.residual_dropout": 0.0,
        "model.output_dropout": 0.0,
        "model.mixers.lstm.weight_dropout": 0.0,
        "loss.ar": 0.0,
        "loss.tar": 0.0,
        "train.average": "none",
    },
}
AXES = (*ARMS["lstm"], "optim.lr", "seed")
MATCH = Match("width")  # and so the parameters


def runs(tier):
    config = load("configs/awd_lstm.py")
    if tier == "smoke":
        changes = {"train.duration": "8 steps", "data.eval_bytes": 8_192}
        return Runs(override(config, changes), (0, 1), 4e-3, (MATCH,))
    if tier == "tiny":
        ladder = Ladder(start=1e-3, ratio=2, rungs=6)
        return Runs(config, (0, 1, 2), ladder, (MATCH,))
    raise KeyError(tier)


CLAIMS = (
    Claim(
        "the regularisers of AWD-LSTM make an LSTM predict better",
        lower("awd-lstm", "lstm"),
    ),
)
