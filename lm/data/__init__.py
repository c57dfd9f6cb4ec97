"""Data: corpora, the token file, batches and yardsticks. Imports no jax."""

from lm.data.corpora import CORPORA
from lm.data.loader import Batch, TrainBatches, stream_batches, window_batches
from lm.data.tokenizers import TOKENIZERS
from lm.data.tokens import Corpus, prepare
from lm.data.yardsticks import yardsticks

__all__ = [
    "CORPORA",
    "TOKENIZERS",
    "Batch",
    "Corpus",
    "TrainBatches",
    "prepare",
    "stream_batches",
    "window_batches",
    "yardsticks",
]
