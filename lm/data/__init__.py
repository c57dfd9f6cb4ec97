"""Data: corpora, the token file, batches and yardsticks. Imports no jax."""

from lm.data.corpora import CORPORA
from lm.data.corpus import Corpus
from lm.data.loader import (
    TRAIN_BATCHES,
    Batch,
    TrainBatches,
    TrainStreams,
    stream_batches,
    window_batches,
)
from lm.data.tokenizers import TOKENIZERS
from lm.data.tokens import as_bytes, prepare
from lm.data.yardsticks import yardsticks

__all__ = [
    "CORPORA",
    "TOKENIZERS",
    "TRAIN_BATCHES",
    "Batch",
    "Corpus",
    "TrainBatches",
    "as_bytes",
    "TrainStreams",
    "prepare",
    "stream_batches",
    "window_batches",
    "yardsticks",
]
