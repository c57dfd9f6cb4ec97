"""Corpora, policies and splits: every byte is kept or counted."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import CORPORA, TOKENIZERS, prepare
from lm.data.splits import SPLITS
from lm.data.tokenizers import Bytes, Encoded
from tests.corpora import config, everything


def starts_of(pieces):
    return [0, *np.cumsum([len(piece) for piece in pieces])[:-1]]


@given(st.binary())
def test_bytes_round_trip(raw):
    tokenizer = Bytes()
    ids, _ = tokenizer.encode(raw)
    assert tokenizer.decode(ids) == raw
    assert tokenizer.bytes_per_token[ids].sum() == len(raw) == tokenizer.cut(raw)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\xff", b"\n", b"\r\n", b" ", b"\xc3\xa9"]))
    .map(b"".join)
    .map(lambda odd: b"\n" + odd + b"\nin the beginning" * 4)
)
@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_every_byte_is_kept_or_counted(document, raw):
    with tempfile.TemporaryDirectory() as folder:
        data = config(Path(folder), raw, document=document, invalid_utf8="keep")
        pieces = [each.text for each in CORPORA["text"](data).documents()]
        corpus = prepare(data)
        text, starts = everything(corpus)
    assert b"".join(pieces) == raw
    kept = [piece for piece in pieces if piece.strip(b"\r\n")]
    dropped = len(raw) - len(b"".join(kept))
    assert text == b"".join(kept)
    assert set(starts) >= set(starts_of(kept))
    assert corpus.manifest["documents"] == len(kept)
    assert corpus.manifest["empty_documents"] == len(pieces) - len(kept)
    assert corpus.manifest["dropped_bytes"] == dropped
    assert corpus.manifest["tokens"] == corpus.manifest["bytes"] - dropped


def test_paragraphs_end_after_their_blank_lines(tmp_path):
    raw = b"\n one\ntwo\n\n \nthree\r\n\r\nfour"
    data = config(tmp_path, raw, document="paragraph")
    pieces = [each.text for each in CORPORA["text"](data).documents()]
    assert pieces == [b"\n one\ntwo\n\n \n", b"three\r\n\r\n", b"four"]


def test_odd_documents_are_counted(tmp_path):
    raw = b"\xef\xbb\xbfone\r\n\r\n  \t\ntwo\xff\xef\xbf\xbd\n\n" + b"x" * 20
    corpus = prepare(config(tmp_path, raw, document="line", max_document=8))
    lines = [b"one\r\n", b"  \t\n", b"two\xef\xbf\xbd", b"\xef\xbf\xbd\n"]
    pieces = lines + [b"x" * 8, b"x" * 8, b"x" * 4]
    # A long document is cut every 8 tokens: "two" and both U+FFFD are 10 bytes.
    pieces[2:4] = [b"two" + b"\xef\xbf\xbd" + b"\xef\xbf", b"\xbd\n"]
    text, starts = everything(corpus)
    assert text == b"".join(pieces)
    assert set(starts) >= set(starts_of(pieces))
    expected = dict(
        bom_stripped=1,
        crlf_kept=1,
        empty_documents=2,
        dropped_bytes=3,
        whitespace_documents=1,
        invalid_utf8_documents=1,
        replaced_characters=1,
        documents_split=2,
        longest_document_tokens=20,
        documents=7,
        bytes=len(raw),
    )
    assert {key: corpus.manifest[key] for key in expected} == expected


def test_invalid_utf8_error_names_file_and_byte(tmp_path):
    raw = b"\xef\xbb\xbfgood\nbad \xff\n" + b"more\n" * 9
    data = config(tmp_path, raw, document="line", invalid_utf8="error")
    with pytest.raises(ValueError, match=r"text\.txt' is not UTF-8 at byte 12;"):
        prepare(data)
    assert raw[12:13] == b"\xff"
    data.invalid_utf8 = "keep"
    assert everything(prepare(data))[0] == raw[3:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(path="nowhere/*.txt"), r"data\.path='nowhere/\*\.txt' matches no file"),
        (dict(path=None), r"data\.path is empty"),
        (dict(document="page"), r"data\.document='page'.*file, line, paragraph"),
        (dict(invalid_utf8="drop"), r"data\.invalid_utf8='drop'.*replace, error, keep"),
        (dict(corpus="kvj"), r"data\.corpus='kvj'.*kjv"),
        (dict(tokenizer="byte"), r"data\.tokenizer='byte'.*bytes"),
        (dict(split=(0.9, 0.2, 0.1)), r"data\.split=.*sum is 1"),
        (dict(max_document=0), r"data\.max_document=0 must be at least 1"),
        (dict(eval_bytes=-1), r"data\.eval_bytes=-1 must be at least 1"),
        (dict(context=6), r"validation split has 5 tokens .* 100,.*data\.context=6"),
        (dict(train_bytes=1), r"train split has 1 tokens.*data\.train_bytes=1"),
    ],
)
def test_errors_name_key_value_and_fix(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, b"x" * 100, **changes))


@pytest.mark.parametrize("raw", [b"", b"\n\r\n"])
def test_a_file_without_text_is_refused(tmp_path, raw):
    with pytest.raises(ValueError, match=rf"holds no text \({len(raw)} bytes\)"):
        prepare(config(tmp_path, raw))


@pytest.mark.parametrize("coarse", [1, 4, 7, 4096])
def test_documents_are_found_in_a_part_of_their_list(tmp_path, monkeypatch, coarse):
    monkeypatch.setattr("lm.data.corpus.COARSE", coarse)
    lines = b"".join(b"x" * (n % 5) + b"\n" for n in range(60))
    corpus = prepare(config(tmp_path, lines, document="line", split=(0.5, 0.25, 0.25)))
    for split in SPLITS:
        every = np.arange(len(corpus.tokens(split)))
        want = np.searchsorted(corpus.documents(split), every, "right")
        np.testing.assert_array_equal(corpus.opened(split, every), want)


def test_splits_are_contiguous_and_capped(tmp_path):
    raw = bytes(range(97, 117)) * 10
    lines = b"\n".join(raw[i : i + 9] for i in range(0, 200, 9)) + b"\n"
    whole = prepare(config(tmp_path, lines, document="line", split=(0.5, 0.25, 0.25)))
    sizes = [len(whole.tokens(split)) for split in SPLITS]
    n = len(lines)
    assert sizes == [round(n / 2), round(n * 0.75) - round(n / 2), n - round(n * 0.75)]
    assert everything(whole)[0] == lines
    for split in SPLITS:
        tokens, documents = whole.tokens(split), whole.documents(split)
        ends = np.flatnonzero(tokens[:-1] == ord("\n")) + 1
        assert documents.dtype == np.int64
        np.testing.assert_array_equal(documents, [0, *ends])
    capped = prepare(
        config(
            tmp_path,
            document="line",
            corpus="text",
            path=str(tmp_path / "text.txt"),
            split=(0.5, 0.25, 0.25),
            train_bytes=33,
            eval_bytes=7,
        )
    )
    for split, size in zip(SPLITS, (33, 7, 7), strict=True):
        np.testing.assert_array_equal(capped.tokens(split), whole.tokens(split)[:size])
        kept = whole.documents(split)[whole.documents(split) < size]
        np.testing.assert_array_equal(capped.documents(split), kept)


class Pairs:
    """Token = two bytes, the last one of an odd document followed by a zero."""

    vocab_size = 65536
    fingerprint = "pairs"
    bytes_per_token = np.full(65536, 2, np.int32)
    unknown = None

    def encode(self, text):
        whole = text + b"\0" * (len(text) % 2)
        return Encoded(np.frombuffer(whole, "<u2").astype(np.int32))

    def decode(self, ids):
        return np.asarray(ids).astype("<u2").tobytes()

    def cut(self, text):
        return len(text) // 2 * 2


def test_a_tokenizer_is_a_class_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "pairs", lambda data, cache, corpus: Pairs())
    raw = bytes(range(33, 123)) * 4
    data = config(tmp_path, raw, tokenizer="pairs", train_bytes=101, max_document=50)
    corpus = prepare(data)
    assert corpus.tokens("train").dtype == np.uint16
    assert corpus.decode(corpus.tokens("train")) == raw[:100]
    assert corpus.manifest["tokens"] == 180
    assert corpus.manifest["documents"] == 4
    assert corpus.fingerprint != prepare(config(tmp_path, raw)).fingerprint


class Runs:
    """Token = a run of one letter; all runs of a letter have one id."""

    vocab_size = 256
    fingerprint = "runs"
    bytes_per_token = None
    unknown = None

    def encode(self, text):
        found = [(key, len(list(run))) for key, run in itertools.groupby(text)]
        return Encoded(*np.array(found, np.int32).reshape(-1, 2).T)

    def decode(self, ids):
        return bytes(ids)

    def cut(self, text):
        return 0


def test_sizes_are_kept_where_an_id_does_not_say_them(tmp_path, monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "runs", lambda data, cache, corpus: Runs())
    raw = b"".join(bytes([65 + n % 26]) * (1 + n % 3) for n in range(300))
    data = config(tmp_path, raw, tokenizer="runs", split=(0.5, 0.25, 0.25))
    corpus = prepare(data)
    text = b""
    for split in SPLITS:
        letters, sizes = corpus.decode(corpus.tokens(split)), corpus.sizes(split)
        text += b"".join(bytes([x]) * n for x, n in zip(letters, sizes, strict=True))
    # Each n-th letter comes n times: a run across an edge is in neither split.
    assert text == b"".join(raw[a:b] for a, b in ((0, 300), (300, 450), (450, 600)))
    before = sizes.tolist()
    cut = next((tmp_path / "cache").glob("text-*/sizes.bin"))
    cut.write_bytes(cut.read_bytes()[:-4])
    assert prepare(data).sizes("test").tolist() == before
    capped = prepare(config(tmp_path, raw, tokenizer="runs", train_bytes=100))
    assert 98 <= capped.sizes("train").sum() <= 100


def test_fingerprint_follows_content_and_split_alone(tmp_path):
    raw = b"one\ntwo\n" * 20
    base = prepare(config(tmp_path, raw)).fingerprint
    others = [
        prepare(config(tmp_path, raw, **changes)).fingerprint
        for changes in (
            dict(document="line"),
            dict(max_document=3),
            dict(invalid_utf8="keep"),
            dict(split=(0.8, 0.1, 0.1)),
            dict(train_bytes=100),
            dict(eval_bytes=5),
        )
    ]
    others.append(prepare(config(tmp_path, raw.replace(b"w", b"v"))).fingerprint)
    assert len({base, *others}) == len(others) + 1
    (tmp_path / "other").mkdir()
    shared = str(tmp_path / "cache")
    moved = prepare(config(tmp_path / "other", raw, context=2, cache=shared))
    assert moved.fingerprint == base
    assert moved.manifest["source"] == str(tmp_path / "other" / "text.txt")


def test_a_glob_is_its_files_in_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_bytes(name.encode() * 30)
    corpus = prepare(config(tmp_path, corpus="text", path=str(tmp_path / "*.txt")))
    assert everything(corpus)[0] == b"a" * 30 + b"b" * 30 + b"c" * 30
    assert corpus.manifest["documents"] == 3
    (tmp_path / "a.txt").write_bytes(b"a" * 30 + b"b" * 10)
    (tmp_path / "b.txt").write_bytes(b"b" * 20)
    other = prepare(config(tmp_path, corpus="text", path=str(tmp_path / "*.txt")))
    assert everything(other)[0] == everything(corpus)[0]
    assert other.fingerprint != corpus.fingerprint


def test_kjv_is_66_books_and_nothing_is_lost(tmp_path):
    corpus = prepare(config(tmp_path))
    text, _ = everything(corpus)
    assert corpus.manifest["documents"] == 66
    assert corpus.manifest["version"] == "0.0.2"
    assert len(text) == corpus.manifest["tokens"] == 4_185_992
    starts = np.load(next((tmp_path / "cache").glob("kjv-*/documents.npy")))
    openings = [text[start : start + 30].strip().decode() for start in starts]
    assert openings[0].startswith("In the beginning God")
    assert openings[18].startswith("Blessed [is] the man")  # Psalms
    assert openings[39].startswith("The book of the generation")  # Matthew
    assert openings[65].startswith("The Revelation of Jesus Christ")
