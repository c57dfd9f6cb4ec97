"""Several corpora as one, in shares of bytes: `data.mixture`.

The next document is always of the corpus whose bytes so far are least for its weight
(of equals, the first by name): shares hold everywhere, to within a document, so in each
split too. The text ends where the corpus whose turn it is has no more.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lm.data.source import Document, Source
from lm.errors import ConfigError


def mixture(data, corpora: dict[str, Callable]) -> Source:
    """The source of `data.mixture`, {name: its weight and its own data keys}.

    `facts` has the weights and, once `documents` were read to their end, the shares.
    """
    entries = dict(sorted(data.mixture.items()))
    sources = {name: _source(name, entries[name], corpora) for name in entries}
    whole = sum(entry.weight for entry in entries.values())
    weights = {name: entry.weight / whole for name, entry in entries.items()}
    parts = {
        name: {"weight": weights[name], **_facts(source)}
        for name, source in sources.items()
    }
    facts: dict[str, dict] = {"mixture": parts}
    content = [(weights[n], s.sha256, s.parts, s.rule) for n, s in sources.items()]

    def documents() -> Iterator[Document]:
        ahead = {name: source.documents() for name, source in sources.items()}
        taken = dict.fromkeys(ahead, 0)
        inside = False  # a long document, which comes in blocks
        while True:
            if not inside:
                name = min(taken, key=lambda name: taken[name] / weights[name])
            with _named(name):
                document = next(ahead[name], None)
            if document is None:
                break
            taken[name] += len(document.text)
            inside = document.more
            yield document
        read = max(sum(taken.values()), 1)
        shares = {n: {"bytes": b, "share": b / read} for n, b in taken.items()}
        facts["shares"] = shares | {name: shares[name] | {"ended": True}}

    return Source(
        name="mixture of " + ", ".join(sources),
        version={name: source.version for name, source in sources.items()},
        sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        parts=tuple(part for source in sources.values() for part in source.parts),
        rule="mixture",
        documents=documents,
        facts=facts,
    )


def _source(name: str, entry, corpora: dict[str, Callable]) -> Source:
    with _named(name):
        return corpora[entry.corpus](entry)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A ConfigError inside says which part it is of."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"data.mixture.{name}: {error}") from error


def _facts(source: Source) -> dict:
    return {"source": source.name, "sha256": source.sha256, "rule": source.rule}
