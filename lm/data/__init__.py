"""Data: corpora, tasks, the token file, batches and yardsticks. Imports no jax."""

from lm.data import tokens
from lm.data.baselines import baselines
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
from lm.data.synthetic import Synthetic, TaskBatches
from lm.data.tasks import TASKS
from lm.data.tokenizers import TOKENIZERS
from lm.data.tokens import as_bytes
from lm.data.yardsticks import yardsticks

__all__ = [
    "CORPORA",
    "TOKENIZERS",
    "TRAIN_BATCHES",
    "Batch",
    "Corpus",
    "Synthetic",
    "TaskBatches",
    "TrainBatches",
    "TrainStreams",
    "as_bytes",
    "baselines",
    "prepare",
    "stream_batches",
    "train_batches",
    "window_batches",
    "yardsticks",
]


def prepare(data) -> Corpus | Synthetic:
    """The task of `config.data`, else its corpus; see lm.data.tokens.prepare."""
    fields = data.get("task")
    if not fields:
        return tokens.prepare(data)
    fields = fields.to_dict()
    reads_text = TASKS[fields["kind"]].reads_text
    return Synthetic(fields, tokens.prepare(data) if reads_text else None)


def train_batches(corpus: Corpus | Synthetic, config):
    """step -> Batch, with `steps_per_epoch`, of a config whose data `corpus` is."""
    context = config.data.context
    rows = config.train.batch_tokens // context
    if isinstance(corpus, Synthetic):
        return TaskBatches(corpus, rows, config.seed)
    return TRAIN_BATCHES[config.train.state](corpus, context, rows, config.seed)
