"""python run.py train --config=configs/text_to_text.py:kjv_bbe --workdir=runs/bible

A source is read and its target written, by any architecture: what is scored is the
target alone. Named tasks, all with `text_to_text` rows of a byte-level BPE:

    kjv_bbe            translation from the English of 1611 to Basic English, by BLEU
    kjv_asv            the same to that of 1901, of which three words in four are kept
    which_translation  which of three translations is this verse from
    sst2, imdb         sentiment, by exact match: TFDS glue/sst2 and imdb_reviews
    squad              questions on a paragraph, by F1: TFDS squad
    cnn_dailymail      summaries, by ROUGE-L: TFDS cnn_dailymail
    dialogue           replies, by BLEU: JSONL, {"messages": [{"role", "content"}, ...]}

The first three come from pinned packages; a TFDS set has to be prepared once, and says
how. The mixers are an LSTM below attention: --config.model.pattern=... takes others.
"""

from configs import base

# name: corpus, path, source, target, metric, tokens of a row
TASKS = {
    "kjv_bbe": ("kjv_bbe", None, None, None, "bleu", 96),
    "kjv_asv": ("kjv_asv", None, None, None, "bleu", 96),
    "which_translation": ("which_translation", None, None, None, "exact", 64),
    "sst2": ("tfds", "glue/sst2", "{sentence}", "{label}", "exact", 64),
    "imdb": ("tfds", "imdb_reviews/plain_text", "{text}", "{label}", "exact", 512),
    "squad": (
        "tfds",
        "squad/v1.1",
        "question: {question} context: {context}",
        "{answers.text.0}",
        "f1",
        384,
    ),
    "cnn_dailymail": (
        "tfds",
        "cnn_dailymail",
        "summarise: {article}",
        "{highlights}",
        "rouge",
        1024,
    ),
    "dialogue": ("jsonl", "dialogue.jsonl", None, None, "bleu", 256),
}


def get_config(name: str = "kjv_bbe"):
    if name not in TASKS:
        raise ValueError(f"task {name!r}: valid are {', '.join(TASKS)}")
    corpus, path, source, target, metric, length = TASKS[name]
    config = base.get_config()
    config.name = f"text_to_text-{name}"
    config.data.update(corpus=corpus, tokenizer="bpe", vocab_size=2048, context=length)
    if path:
        config.data.path = path
    if source:
        config.data.update(source=source, target=target)
    if name == "dialogue":
        config.data.dialogue = "messages"
    config.data.task = dict(kind="text_to_text", length=length, metric=metric)
    config.data.task.tests = dict(other=dict(sources="other"))
    config.model.update(width=128, pattern=("lstm", "attention"))
    config.train.update(duration="1000 steps", batch_tokens=32 * length)
    config.optim.lr = 4e-3
    return config
