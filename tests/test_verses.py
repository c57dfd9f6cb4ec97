"""Verses of three translations: cut at their own numbers, paired with their like."""

import re

import pytest

from lm.data import verses
from lm.data.corpora import CORPORA
from lm.data.pairs import BETWEEN, END

KNOWN = {
    1001001: "At the first God made the heaven and the earth.",
    # From here on the package's own indices point into other verses.
    1043001: "Now the land was in bitter need of food.",
    9020042: "And Jonathan said to David, Go in peace, for we two have taken an oath",
    19117001: "Let all the nations give praise to the Lord: let all the people give",
    23064001: "O let the heavens be broken open and come down",
    32001017: "And the Lord made ready a great fish to take Jonah into its mouth;",
    40001001: "The book of the generations of Jesus Christ, the son of David, the son",
    43003016: "For God had such love for the world that he gave his only Son, so that",
    66022021: "The grace of the Lord Jesus be with the saints. So be it.",
}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.lower()))


def test_known_verses_of_the_translation_in_basic_english():
    found = verses.verses("bbe").texts
    assert {verse: found[verse][: len(text)] for verse, text in KNOWN.items()} == KNOWN


def test_verses_are_in_order_and_none_starts_inside_a_word():
    bible = verses._package("bbe", "plain_text_bible")
    raw, at = " ".join(bible.scripture_content.split()), 0
    found = verses.verses("bbe")
    for text in found.texts.values():
        start = raw.find(text[:12], at)
        assert start >= at and not raw[start - 1].isalpha(), text[:12]
        at = start + 1
    assert len(found.texts) > 30_900
    # John 1 has a verse more there than elsewhere.
    assert (found.excluded, found.empty) == ((43001,), 35)


@pytest.mark.parametrize("name", ["asv", "bbe"])
def test_a_verse_is_likest_to_its_own_and_not_to_its_neighbours(name):
    source, target = (verses.verses(n).texts for n in ("kjv", name))
    both = [verse for verse in source if verse in target]
    mine = {verse: words(target[verse]) for verse in both}
    theirs = {verse: words(source[verse]) for verse in both}
    right = wrong = 0
    for before, verse, after in zip(both, both[1:], both[2:], strict=False):
        alike = [len(theirs[verse] & mine[near]) for near in (before, verse, after)]
        right += alike[1] > max(alike[0], alike[2])
        wrong += alike[1] < max(alike[0], alike[2])
    # Some verses are one word, or say nearly what the next one says.
    assert right > 0.95 * len(both) and wrong < 0.02 * len(both)


def test_verses_without_their_numbers_lose_their_chapter_alone():
    lengths = {1001: 3, 1002: 2, 2001: 2}
    text = "1. In 2. And 3. The end. 1. Then 2. So 1. Now 2. Last"
    whole = {1001001: "In", 1001002: "And", 1001003: "The end.", 1002001: "Then"}
    whole |= {1002002: "So", 2001001: "Now", 2001002: "Last"}
    assert verses.by_number(text, lengths) == (whole, ())
    cut, excluded = verses.by_number(text.replace("2. So", "So"), lengths)
    assert excluded == (1002,)
    assert cut == {v: t for v, t in whole.items() if v // 1000 != 1002}
    # Verse 3 of the first chapter counts as the second's first there, in two pieces.
    moved = "1. In 2. And 3. The 1.\\1:3\\end. 2.\\2:1\\Then 3.\\2:2\\So 1. Now 2. Last"
    assert verses.by_number(moved, lengths) == (whole, ())


@pytest.mark.parametrize("name, pairs", [("kjv_asv", 31_086), ("kjv_bbe", 31_016)])
def test_a_document_is_a_pair_and_a_chapter_is_in_one_place(name, pairs):
    source = CORPORA[name](None)
    texts = [document.text.decode() for document in source.documents()]
    assert len(texts) == source.facts["pairs"] == pairs
    assert sum(source.parts) == sum(len(text.encode()) for text in texts)
    assert all(text.count(BETWEEN) == text.count(END) == 1 for text in texts)
    assert all(text.endswith(END) and "[" not in text for text in texts)
    first, other = name.split("_")
    known = [verses.verses(n).texts for n in (first, other)]
    of_text = {}
    for verse in known[0]:
        if verse in known[1]:
            told = f"{known[0][verse]}{BETWEEN}{known[1][verse]}{END}"
            of_text.setdefault(told, []).append(verse // 1000)
    assert sorted(of_text) == sorted(set(texts))
    # Some verses are said in several chapters.
    chapters = [of_text[text][0] for text in texts if len(of_text[text]) == 1]
    runs = sum(a != b for a, b in zip(chapters, chapters[1:], strict=False)) + 1
    assert runs == len(set(chapters))
    assert chapters != sorted(chapters)


def test_which_translation_a_verse_is_of():
    source = CORPORA["which_translation"](None)
    rows = [document.text.decode() for document in source.documents()]
    labels = [row.split(BETWEEN)[1] for row in rows]
    counts = {label: labels.count(f"{label}{END}") for label in ("kjv", "asv", "bbe")}
    assert sum(counts.values()) == len(rows) == source.facts["pairs"]
    assert counts["bbe"] == 31_016 and min(counts.values()) == counts["bbe"]
