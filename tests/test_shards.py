"""The token file is the same wherever its text is cut, and whoever encodes it."""

import re
import tempfile
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import TOKENIZERS, corpora, prepare, shards, workers
from lm.data.clean import POLICY_COUNTS
from tests.corpora import Runs, config

ODD = (
    b"a b\n",
    b"\n",
    b"\r\n",
    b"\r",
    b" \t",
    b"\xef\xbb\xbf",
    b"\xef",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x82",
    b"\xac",
    b"\xf0\x9f\x8c\x8d",
    b"\xef\xbf\xbd",
    b"word" * 5,
)


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "runs", lambda data, cache, corpus: Runs())


def documents_of(raw, unit):
    """The definition of the units, on a text that is in memory."""
    if unit == "file":
        return [raw]
    lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", raw)
    if unit == "line":
        return lines
    paragraphs, ended = [b""], False
    for line in lines:
        if ended and line.strip():
            paragraphs.append(b"")
        paragraphs[-1] += line
        ended = bool(paragraphs[-1].strip()) and not line.strip()
    return paragraphs if lines else []


def cleaned(documents, invalid_utf8):
    """The definition of the policies, on whole documents of one file."""
    counts = dict.fromkeys(POLICY_COUNTS, 0)
    texts = []
    for number, text in enumerate(documents):
        if number == 0 and text.startswith(b"\xef\xbb\xbf"):
            text = text[3:]
            counts["bom_stripped"] += 1
        if not text.strip(b"\r\n"):
            counts["empty_documents"] += 1
            counts["dropped_bytes"] += len(text)
            continue
        counts["whitespace_documents"] += text.isspace()
        counts["crlf_kept"] += text.count(b"\r\n")
        ignored = text.decode(errors="ignore")
        if ignored.encode() != text:
            counts["invalid_utf8_documents"] += 1
            if invalid_utf8 == "replace":
                replaced = text.decode(errors="replace")
                counts["replaced_characters"] += replaced.count("\ufffd")
                counts["replaced_characters"] -= ignored.count("\ufffd")
                text = replaced.encode()
        texts.append(text)
    return texts, counts


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.[bn]*")}


def made(folder, raw, **changes):
    """Manifest and files of a token file that nothing has been cached for."""
    changes = dict(split=(0.4, 0.3, 0.3)) | changes
    with tempfile.TemporaryDirectory(dir=folder) as name:
        corpus = prepare(config(Path(name), raw, **changes))
        key = corpus.manifest["key"]
        return corpus.manifest, files(
            next((Path(name) / "cache").glob(f"*{key[:16]}/"))
        )


@settings(max_examples=150, deadline=None)
@given(
    raw=st.lists(st.sampled_from(ODD), max_size=30).map(b"".join),
    unit=st.sampled_from(["file", "line", "paragraph"]),
    policy=st.sampled_from(["replace", "keep"]),
    tokenizer=st.sampled_from(["bytes", "runs"]),
    most=st.sampled_from([None, 1, 3, 7]),
    block=st.integers(1, 9),
    shard=st.integers(1, 40),
)
def test_blocks_and_shards_change_nothing(
    raw, unit, policy, tokenizer, most, block, shard
):
    raw += b"\n\n" + b"0123456789" * 30
    texts, want = cleaned(documents_of(raw, unit), policy)
    encode = TOKENIZERS[tokenizer](None, None, None).encode
    encoded = [encode(text) for text in texts]
    sizes = [len(each.ids) for each in encoded]
    begins = accumulate(sizes, initial=0)
    starts = [
        at
        for begin, size in zip(begins, sizes, strict=False)
        for at in range(begin, begin + size, most or size)
    ]
    want["documents_split"] = sum(size > (most or size) for size in sizes)
    want["longest_document_tokens"] = max(sizes)
    want |= {"documents": len(starts), "tokens": sum(sizes), "bytes": len(raw)}

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
    ):
        patch.setattr(corpora, "BLOCK", block)
        patch.setattr(shards, "BLOCK", block)
        patch.setattr(shards, "SHARD", shard)
        patch.setattr(workers, "_cpus", lambda: 1)
        manifest, got = made(
            folder,
            raw,
            document=unit,
            invalid_utf8=policy,
            tokenizer=tokenizer,
            max_document=most,
        )
        np.save(Path(folder) / "starts.npy", np.array(starts, np.int64))
        assert got["documents.npy"] == (Path(folder) / "starts.npy").read_bytes()
    ids = np.concatenate([each.ids for each in encoded])
    assert got["tokens.bin"] == ids.astype(manifest["dtype"]).tobytes()
    if tokenizer == "runs":
        covered = np.concatenate([each.sizes for each in encoded])
        assert got["sizes.bin"] == covered.tobytes()
    assert {key: manifest[key] for key in want} == want


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
def test_an_invalid_byte_is_named_whatever_the_block(tmp_path, monkeypatch, block):
    monkeypatch.setattr(corpora, "BLOCK", block)
    raw = b"\xef\xbb\xbf\n\ngood \xe2\x82\xac, bad \xe2\x82 and \xff" + b"x" * 20
    with pytest.raises(ValueError, match=rf"byte {raw.index(b'bad') + 4};"):
        prepare(config(tmp_path, raw, invalid_utf8="error"))
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_whole_document_is_read_in_blocks_too(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 4)
    whole = corpora.Document(b"abc def ghi", "x", 7)
    blocks = list(shards._blocks([whole, whole._replace(more=True)]))
    assert [each.text for each in blocks] == [b"abc ", b"def ", b"ghi"] * 2
    assert [each.offset for each in blocks] == [7, 11, 15] * 2
    assert [each.more for each in blocks] == [True, True, False, True, True, True]


def test_a_text_without_cuts_is_searched_a_few_times(monkeypatch):
    """A search reads all the text since the last cut: each block would be quadratic."""
    searched = []

    def cut(text):
        searched.append(len(text))
        return 0

    blocks = [corpora.Document(b"x" * 10, "x", 0, more=n < 99) for n in range(100)]
    pieces = list(shards._pieces(blocks, lambda block: block.text, cut))
    assert pieces == [(b"x" * 1000, True, 1000)]
    assert searched == [10 * 2**n for n in range(7)]


@pytest.mark.parametrize("processes", [2, 3])
def test_workers_change_nothing(tmp_path, monkeypatch, processes):
    rng = np.random.default_rng(0)
    raw = bytes(rng.choice(list(b"abcdefg \n"), 30_000).astype(np.uint8))
    changes = dict(document="line", tokenizer="runs", max_document=5)
    want = made(tmp_path, raw, **changes)[1]
    monkeypatch.setattr(workers, "_cpus", lambda: processes)
    assert made(tmp_path, raw, **changes)[1] == want
    started = []
    start = workers._start
    monkeypatch.setattr(
        workers, "_start", lambda: started.append(start()) or started[-1]
    )
    monkeypatch.setattr(shards, "SHARD", 3_000)
    assert made(tmp_path, raw, **changes)[1] == want
    assert len(started) == 2 * processes  # also for the token file of bytes
    assert {process.returncode for process in started} == {-9}  # none is left


def test_a_worker_that_dies_is_told_and_the_next_call_goes_on(tmp_path, monkeypatch):
    raw = b"some line\n" * 500
    want = made(tmp_path, raw, document="line")[1]
    monkeypatch.setattr(workers, "_cpus", lambda: 2)
    monkeypatch.setattr(shards, "SHARD", 1000)
    data = config(tmp_path, raw, document="line")
    encode, calls = workers.Workers.encode, []

    def dies(self, shard):
        calls.append(shard)
        if len(calls) == 4:
            self._all[0].kill()
            self._all[1].kill()
        return encode(self, shard)

    monkeypatch.setattr(workers.Workers, "encode", dies)
    with pytest.raises(RuntimeError, match=r"code -9 \(killed; no memory"):
        prepare(data)
    monkeypatch.setattr(workers.Workers, "encode", encode)
    prepare(data)
    assert files(next((tmp_path / "cache").glob("text-*/"))) == want
