"""The registry: adding a mixer is one file here and one line below."""

from lm.mixers.additive_attention import AdditiveAttention
from lm.mixers.attention import Attention
from lm.mixers.base import Mixer
from lm.mixers.deltanet import DeltaNet
from lm.mixers.deltaproduct import DeltaProduct
from lm.mixers.elman import Elman
from lm.mixers.gated_deltanet import GatedDeltaNet
from lm.mixers.gla import GLA
from lm.mixers.gru import GRU
from lm.mixers.hgrn import HGRN
from lm.mixers.linear_attention import LinearAttention
from lm.mixers.lstm import LSTM
from lm.mixers.mamba import Mamba
from lm.mixers.mamba2 import Mamba2
from lm.mixers.mingru import MinGRU
from lm.mixers.minlstm import MinLSTM
from lm.mixers.mlstm import MLSTM
from lm.mixers.retnet import RetNet
from lm.mixers.rglru import RGLRU
from lm.mixers.rwkv7 import RWKV7
from lm.mixers.slstm import SLSTM

MIXERS: dict[str, type[Mixer]] = {
    "additive_attention": AdditiveAttention,
    "attention": Attention,
    "deltanet": DeltaNet,
    "deltaproduct": DeltaProduct,
    "elman": Elman,
    "gated_deltanet": GatedDeltaNet,
    "gla": GLA,
    "gru": GRU,
    "hgrn": HGRN,
    "linear_attention": LinearAttention,
    "lstm": LSTM,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "mlstm": MLSTM,
    "retnet": RetNet,
    "rglru": RGLRU,
    "rwkv7": RWKV7,
    "slstm": SLSTM,
}

__all__ = ["MIXERS", "Mixer"]
