"""The targets of pairs as a model writes them by itself, and what they are worth."""

import numpy as np

from lm import metrics
from lm.data.pairs import END
from lm.generate import decode

SHOWN = 5  # pairs whose answers are in an EVAL


def written(model, params, corpus, length: int, sources, rows: int) -> list[str]:
    """The answer to each source, greedily, up to its end mark or `length` tokens.

    Args:
      corpus: its tokenizer; sources: ids, each with the mark that ends it.
      rows: how many are written at once, those of like lengths.
    """
    (end,) = corpus.encode(END).tolist()
    order = np.argsort([len(source) for source in sources], kind="stable")
    answers: dict[int, str] = {}
    for first in range(0, len(order), rows):
        group = order[first : first + rows].tolist()
        prompts = [sources[i] for i in group]
        # A table of positions ends with the row; other models may go on.
        longest = max(map(len, prompts)) if model.positions else len(prompts[0])
        if longest >= length:
            answers |= dict.fromkeys(group, "")
            continue
        found = decode.continuations(
            model,
            params,
            prompts,
            length - longest,
            decode.PLAIN._replace(temperature=0.0),
            lambda ids: ids[-1] == end,
        )
        for i, ids in zip(group, found, strict=True):
            ids = ids[: max(length - len(sources[i]), 0)]
            kept = ids[:-1] if end in ids else ids
            answers[i] = corpus.decode(kept).decode(errors="replace")
    return [answers[i] for i in range(len(sources))]


def figures(model, params, corpus, test, pairs, rows: int) -> dict:
    """The metric of a test and its interval over pairs, with the first of them.

    {metric: value, "interval": [low, high], "answers": [[source, answer, reference]]}
    """
    ids = [pair.ids for pair in pairs]
    answers = written(model, params, corpus, test.length, ids, rows)
    references = [pair.reference for pair in pairs]
    worth = metrics.METRICS[test.metric](answers, references)
    sources = [pair.source for pair in pairs]
    shown = list(zip(sources, answers, references, strict=True))[:SHOWN]
    return {
        test.metric: worth.value,
        "interval": [worth.low, worth.high],
        "answers": [list(row) for row in shown],
    }
