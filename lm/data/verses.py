"""Verses of three translations, paired: the same text written twice, with no network.

A corpus here has a document a pair, `source TAB target LF`, as lm/data/pairs.py reads
it. Chapters come in an order drawn once, so that contiguous splits are alike and
neighbouring verses are in one split.
"""

import functools
import hashlib
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from lm.data.pairs import pair
from lm.data.source import Document, Source

# A verse's number, and where the translation counts otherwise its place by the others'.
NUMBER = re.compile(r"(\d+)\.(?:\\(\d+):(\d+)\\)?")


class Verses(NamedTuple):
    """A translation.

    texts: by BBCCCVVV, book, chapter and verse. excluded: chapters left out, as their
    verses are not 1, 2, ... to their end; empty: verses left out that say nothing.
    """

    texts: dict[int, str]
    excluded: tuple[int, ...]
    empty: int


def _package(name: str, module: str):
    return importlib.import_module(f"pythonbible_{name}.{module}").bible


def _lengths() -> dict[int, int]:
    """BBCCC -> verses of the chapter, of all 1,189 in order."""
    found: dict[int, int] = defaultdict(int)
    for verse in sorted(
        _package("kjv", "plain_text_readers_bible").verse_start_indices
    ):
        found[verse // 1000] = max(found[verse // 1000], verse % 1000)
    return found


@functools.cache
def verses(name: str) -> Verses:
    """The translation "kjv", "asv" or "bbe", as pinned packages have it.

    The package of bbe has indices that point into other verses from Genesis 42:39 on;
    its verses are cut anew, by the numbers in its own text.
    """
    if name == "bbe":
        text = _package(name, "plain_text_bible").scripture_content
        cut, excluded = by_number(text, _lengths())
    else:
        bible = _package(name, "plain_text_readers_bible")
        starts, ends = bible.verse_start_indices, bible.verse_end_indices
        whole = bible.scripture_content
        cut = {verse: whole[starts[verse] : ends[verse]] for verse in sorted(starts)}
        excluded = ()
    # Brackets are of words that the translators supplied.
    plain = {verse: re.sub(r"[\[\]]", "", text) for verse, text in cut.items()}
    texts = {v: " ".join(t.split()) for v, t in plain.items() if re.search("[a-z]", t)}
    return Verses(texts, excluded, len(plain) - len(texts))


def by_number(text: str, lengths: dict[int, int]) -> tuple[dict[int, str], tuple]:
    """({BBCCCVVV: text}, chapters whose verses are not 1 to their end).

    Args:
      text: "1. ... 2. ... 1. ..." of all chapters; "7.\\\\6:14\\\\ ..." is verse 14 of
        chapter 6 of the same book. Pieces of the same verse are joined.
      lengths: BBCCC -> verses, of all chapters in order.
    """
    chapters = list(lengths)
    near = {chapter: place for place, chapter in enumerate(chapters)}
    place, last, found = 0, 0, []
    marks = list(NUMBER.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        number = int(mark[1])
        # A verse 1 of two pieces: the second has its place by the others' count.
        place += number == 1 and (last > 1 or (last == 1 and not mark[2]))
        last = number
        chapter = chapters[min(place, len(chapters) - 1)]
        if mark[2]:
            chapter, number = chapter // 1000 * 1000 + int(mark[2]), int(mark[3])
        piece = text[mark.end() : following.start() if following else None]
        if chapter in near:
            found.append((chapter, number, piece.strip(" \\")))
    cut: dict[int, dict[int, list[str]]] = {chapter: {} for chapter in chapters}
    for chapter, number, piece in found:
        cut[chapter].setdefault(number, []).append(piece)
    whole = lambda chapter: list(cut[chapter]) == list(range(1, lengths[chapter] + 1))
    good = {
        chapter * 1000 + number: " ".join(pieces)
        for chapter in filter(whole, chapters)
        for number, pieces in cut[chapter].items()
    }
    return good, tuple(chapter for chapter in chapters if not whole(chapter))


def translated(source: str, target: str) -> Source:
    """From one translation to another, verse by verse."""
    known = {name: verses(name) for name in (source, target)}
    from_, to = known[source].texts, known[target].texts
    pairs = [(verse, from_[verse], to[verse]) for verse in from_ if verse in to]
    return _source(known, pairs)


def which() -> Source:
    """A verse of kjv, asv or bbe, and the name of its translation."""
    known = {name: verses(name) for name in ("kjv", "asv", "bbe")}
    pairs = [
        (verse, of.texts[verse], name)
        for verse in known["kjv"].texts
        for name, of in known.items()
        if verse in of.texts
    ]
    return _source(known, pairs)


def _source(known: dict[str, Verses], pairs: list[tuple[int, str, str]]) -> Source:
    packages = {f"pythonbible-{name}": name for name in known}
    chapters: dict[int, list[bytes]] = defaultdict(list)
    for verse, *texts in pairs:
        chapters[verse // 1000].append(pair(*texts))
    drawn = sorted(chapters, key=lambda c: hashlib.sha256(f"{c}".encode()).digest())
    parts = tuple(sum(map(len, chapters[chapter])) for chapter in drawn)
    whole = b"".join(text for chapter in drawn for text in chapters[chapter])

    def documents() -> Iterator[Document]:
        offset = 0
        for chapter in drawn:
            for text in chapters[chapter]:
                yield Document(text, " and ".join(packages), offset)
                offset += len(text)

    return Source(
        name=" and ".join(packages),
        version={package: metadata.version(package) for package in packages},
        sha256=hashlib.sha256(whole).hexdigest(),
        parts=parts,
        rule="pair",
        documents=documents,
        facts={
            "pairs": len(pairs),
            "excluded_chapters": {n: list(v.excluded) for n, v in known.items()},
            "empty_verses": {name: v.empty for name, v in known.items()},
        },
    )
