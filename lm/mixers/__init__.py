"""The registry: adding a mixer is one file here and one line below."""

from lm.mixers.attention import Attention
from lm.mixers.base import Mixer
from lm.mixers.gru import GRU
from lm.mixers.lstm import LSTM
from lm.mixers.rglru import RGLRU

MIXERS: dict[str, type[Mixer]] = {
    "attention": Attention,
    "gru": GRU,
    "lstm": LSTM,
    "rglru": RGLRU,
}

__all__ = ["MIXERS", "Mixer"]
