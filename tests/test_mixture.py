"""Several corpora as one: an order that is fixed, shares that hold, all recorded."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from lm import config as configs
from lm.data import CORPORA, prepare
from lm.data.mixture import mixture
from lm.data.source import Document, Source
from lm.errors import ConfigError
from tests.corpora import everything


@pytest.fixture
def mixed(tmp_path):
    """Settings of 3 parts of a, in short lines, to 1 of b, in long ones."""
    (tmp_path / "a.txt").write_bytes(b"a" * 9 + b"\n")
    (tmp_path / "a.txt").write_bytes((b"a" * 9 + b"\n") * 300)
    rows = [json.dumps({"body": "b" * 40}) for _ in range(60)]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    one = dict(weight=3, corpus="text", path=str(tmp_path / "a.txt"), document="line")
    other = dict(weight=1, corpus="jsonl", path=str(tmp_path / "b.jsonl"))
    return {
        "data.corpus": "mixture",
        "data.mixture": {"one": one, "other": other | {"column": "body"}},
        "data.cache": str(tmp_path / "cache"),
        "data.context": 16,
        "train.batch_tokens": 64,
        "eval.stream_chunk": 16,
    }


def resolved(settings):
    return configs.resolve(configs.load("configs/base.py", settings))


def test_the_next_document_is_of_the_corpus_most_behind(mixed):
    source = CORPORA["mixture"](resolved(mixed).data)
    order = [document.text[:1] for document in source.documents()]
    assert b"".join(order[:13]) == b"abaaaaaaaaaaa"
    taken = np.cumsum([[10, 0] if one == b"a" else [0, 40] for one in order], axis=0)
    assert np.all(np.abs(taken @ [1 / 3, -1]) <= 40)
    assert order == [document.text[:1] for document in source.documents()]
    assert order.count(b"a") == 300


def test_shares_are_in_the_manifest(mixed):
    corpus = prepare(resolved(mixed).data)
    text, _ = everything(corpus)
    shares = corpus.manifest["shares"]
    assert shares["one"]["bytes"] == text.count(b"a") + text.count(b"\n") == 3000
    assert shares["other"]["bytes"] == text.count(b"b")
    assert shares["one"]["share"] == pytest.approx(0.75, abs=0.01)
    assert shares["one"]["ended"]
    assert corpus.manifest["mixture"]["one"]["weight"] == 0.75
    assert prepare(resolved(mixed).data).manifest == corpus.manifest
    for split in ("train", "validation", "test"):
        part = corpus.decode(corpus.tokens(split))
        assert part.count(b"b") / len(part) == pytest.approx(0.25, abs=0.2)


def test_the_fingerprint_follows_weights_and_content(mixed, tmp_path):
    fingerprint = lambda settings: prepare(resolved(settings).data).fingerprint
    whole = fingerprint(mixed)
    assert fingerprint(mixed | {"data.mixture.one.weight": "2"}) != whole
    twice = {"data.mixture.one.weight": 6, "data.mixture.other.weight": "2"}
    assert fingerprint(mixed | twice) == whole
    rows = [json.dumps({"body": "c" * 40}) for _ in range(60)]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    assert fingerprint(mixed) != whole


def test_a_mixture_from_the_command_line_and_back():
    keys = ["data.mixture.kjv.weight=0.7", "data.mixture.pystdlib.weight=0.3"]
    config = resolved([*keys, "data.corpus=mixture"])
    assert config.data.mixture.kjv.corpus == "kjv"
    assert configs.from_json(configs.to_json(config)) == config
    assert configs.resolve(config) == config


def test_blocks_of_a_long_document_stay_together():
    def source(letter):
        blocks = [Document(letter, "", 0, more) for more in (True, True, False)]
        return Source("", "", "", (), "", lambda: iter(2 * blocks))

    parts = {"a": source(b"a"), "b": source(b"b")}
    entries = {n: SimpleNamespace(weight=0.5, corpus=n) for n in parts}
    corpora = {name: lambda entry: parts[entry.corpus] for name in parts}
    made = mixture(SimpleNamespace(mixture=entries), corpora)
    assert b"".join(d.text for d in made.documents()) == b"aaabbbaaabbb"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.corpus": "kjv"}, "'kjv' with data.mixture of one, other: a mixture is"),
        (
            {"data.mixture.one.weight": 0},
            "data.mixture.one.weight=0.0 must be positive",
        ),
        ({"data.mixture.one.wieght": 1}, "did you mean data.mixture.one.weight"),
        ({"data.mixture.one.corpus": "mixture"}, "corpus='mixture'"),
        ({"data.mixture.one.path": "no/such"}, "one.path='no/such' is no file"),
        ({"data.mixture.one.document": "page"}, "valid are file, line, paragraph"),
        (
            {"data.mixture.third.weight": 1, "data.mixture.third.path": "x"},
            "third.path",
        ),
    ],
)
def test_errors_name_key_value_and_fix(mixed, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolved(configs.flatten(mixed) | changes)


def test_an_error_of_a_part_names_it(mixed):
    with pytest.raises(
        ConfigError, match="data.mixture.other: .*no data.column='text'"
    ):
        prepare(resolved(mixed | {"data.mixture.other.column": "text"}).data)
