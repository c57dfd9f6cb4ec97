"""Rows of JSONL and Parquet: every text is a document, in order, a few in memory."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from lm import config as configs
from lm.data import CORPORA, prepare
from lm.errors import ConfigError
from tests.corpora import config, everything

TEXTS = ["one\n", None, "l'été", "", "four " * 9, "\n", "six"]


def jsonl(path, texts, column="text"):
    lines = [json.dumps({"id": i, column: text}) for i, text in enumerate(texts)]
    raw = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def parquet(path, texts, column="text", kind=None, **options):
    ids = list(range(len(texts)))
    pq.write_table(
        pa.table({"id": ids, column: pa.array(texts, kind or pa.string())}),
        path,
        **options,
    )


FILES = {
    "jsonl": ("jsonl", "rows.jsonl", jsonl),
    "jsonl.gz": ("jsonl", "rows.jsonl.gz", jsonl),
    "parquet": ("parquet", "rows.parquet", parquet),
}


def data(tmp_path, corpus, path, **changes):
    return config(tmp_path, corpus=corpus, path=str(tmp_path / path), **changes)


@pytest.mark.parametrize("name", FILES)
def test_rows_are_documents_in_order(name, tmp_path):
    corpus, path, write = FILES[name]
    write(tmp_path / path, TEXTS, column="body")
    made = prepare(data(tmp_path, corpus, path, column="body"))
    kept = [text for text in TEXTS if (text or "").strip("\n")]
    assert everything(made)[0].decode() == "".join(kept)
    facts = {"documents": 4, "empty_documents": 3, "dropped_bytes": 1, "column": "body"}
    assert {fact: made.manifest[fact] for fact in facts} == facts
    assert made.manifest["bytes"] == (tmp_path / path).stat().st_size


@pytest.mark.parametrize("name", FILES)
def test_a_glob_is_its_files_in_order(name, tmp_path):
    corpus, path, write = FILES[name]
    for part in "bac":
        write(tmp_path / f"{part}-{path}", [part * 30])
    source = CORPORA[corpus](data(tmp_path, corpus, f"*-{path}"))
    assert [d.text[:1] for d in source.documents()] == [b"a", b"b", b"c"]
    assert len(source.parts) == 3
    whole = prepare(data(tmp_path, corpus, f"*-{path}")).fingerprint
    write(tmp_path / f"b-{path}", ["B" * 30])
    assert prepare(data(tmp_path, corpus, f"*-{path}")).fingerprint != whole


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_a_column_of_texts_may_be_stored_in_any_way(kind, tmp_path):
    texts = ["one", None, "two", "one"] * 40
    parquet(tmp_path / "a.parquet", texts, kind=kind, row_group_size=50)
    source = CORPORA["parquet"](data(tmp_path, "parquet", "a.parquet"))
    assert [d.text.decode() for d in source.documents()] == [t or "" for t in texts]


def test_bytes_that_are_no_utf8_are_for_the_policy(tmp_path):
    raw = b"\xef\xbb\xbf" + b'{"text": "a\xffb"}\n\n{"text": "\\ud83d \\u00e9"}\r\n'
    (tmp_path / "a.jsonl").write_bytes(raw)
    source = CORPORA["jsonl"](data(tmp_path, "jsonl", "a.jsonl"))
    wanted = [b"a\xffb", b"\xed\xa0\xbd \xc3\xa9"]
    assert [d.text for d in source.documents()] == wanted
    half = pa.array(wanted, pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": half}), tmp_path / "a.parquet")
    source = CORPORA["parquet"](data(tmp_path, "parquet", "a.parquet"))
    assert [d.text for d in source.documents()] == wanted
    with pytest.raises(ConfigError, match="a.parquet, row 1' is not UTF-8 at byte 1"):
        prepare(data(tmp_path, "parquet", "a.parquet", invalid_utf8="error"))


ROW = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("path", "raw", "message"),
    [
        ("a.jsonl", ROW + b"{text}", "line 2 of .*a.jsonl' is no JSON"),
        ("a.jsonl", ROW + b"[1]", "line 2 of .*a.jsonl' is a list, no object"),
        ("a.jsonl", b'{"id": 1, "body": "b"}', "no data.column='text'; it has id, b"),
        ("a.jsonl", b'{"id": 1, "text": 3}', "column='text' of line 1 .* is a int"),
        ("a.jsonl.gz", gzip.compress(ROW * 99, mtime=0)[:-9], "is no whole gzip file"),
        ("a.jsonl.gz", ROW, "is no whole gzip file"),
    ],
)
def test_a_bad_line_is_named(path, raw, message, tmp_path):
    (tmp_path / path).write_bytes(raw)
    with pytest.raises(ConfigError, match=message):
        prepare(data(tmp_path, "jsonl", path))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("body", "no data.column='body'; it has id, text"),
        ("id", "data.column='id' of .*a.parquet' holds int64, no strings"),
    ],
)
def test_a_bad_column_is_named(column, message, tmp_path):
    parquet(tmp_path / "a.parquet", ["one"])
    with pytest.raises(ConfigError, match=message):
        prepare(data(tmp_path, "parquet", "a.parquet", column=column))


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no table" * 9)
    with pytest.raises(ConfigError, match="a.parquet' is no whole Parquet file"):
        prepare(data(tmp_path, "parquet", "a.parquet"))
    with pytest.raises(ConfigError, match="data.corpus='jsonl' needs data.path"):
        configs.resolve(configs.load("configs/base.py", {"data.corpus": "jsonl"}))


@pytest.mark.parametrize("name", FILES)
def test_memory_does_not_grow_with_the_file(name, tmp_path):
    corpus, path, write = FILES[name]
    texts = [f"{i} " * 2500 for i in range(1500)]  # 18 MB in one row group
    pages = {"use_dictionary": False, "write_batch_size": 16}
    options = pages if corpus == "parquet" else {}
    write(tmp_path / path, texts, **options)
    del texts
    pool = pa.default_memory_pool()
    tracemalloc.start()
    before = pool.bytes_allocated()
    source, size, most = CORPORA[corpus](data(tmp_path, corpus, path)), 0, 0
    for document in source.documents():
        size += len(document.text)
        most = max(most, pool.bytes_allocated() - before)
    most += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 15e6
    assert most < 5e6
