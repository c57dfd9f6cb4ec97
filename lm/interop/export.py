"""A run's model as transformers loads it."""

import json
from pathlib import Path

from lm import restore
from lm.data import Synthetic
from lm.interop.pretrained import save_pretrained
from lm.interop.tokenizer import written


def run(workdir: Path, out: Path) -> str:
    """The newest checkpoint of a run, and its tokenizer, in a folder for transformers.

    Returns what a person is told.
    """
    config, model, params, corpus = restore.load(workdir)
    kind = save_pretrained(out, config, model, params)
    content = None
    if not isinstance(corpus, Synthetic):
        content = written(corpus.tokenizer)
    if content is None:
        return f"{out}: {kind}; without a tokenizer, as transformers has none like it"
    (out / "tokenizer.json").write_text(content, encoding="utf-8")
    (out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n"
    )
    return f"{out}: {kind}, with its tokenizer"
