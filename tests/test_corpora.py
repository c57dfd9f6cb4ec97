"""Corpora beyond the text of kjv: what they read, in which order, what they record."""

import os
import platform
import sysconfig
from pathlib import Path

import pytest

from lm.data import CORPORA, prepare
from lm.errors import ConfigError
from tests.corpora import config, everything


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A small standard library; makes its files in an order that isn't theirs."""
    root = tmp_path / "lib"
    for name, text in (
        ("zlib.py", b"z = 1\n" * 20),
        ("json/decoder.py", b"d = '\xc3\xa9'\n" * 20),
        ("abc.py", b"a = 1\n" * 20),
        ("empty/__init__.py", b""),
        ("test/test_abc.py", b"left out"),
        ("json/tests/test_json.py", b"left out"),
        ("site-packages/flax.py", b"left out"),
        ("config-3.11/build.py", b"left out"),
        ("_sysconfigdata_linux.py", b"left out"),
        ("notes.txt", b"left out"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    return root


def test_pystdlib_is_source_files_in_order(tmp_path, library):
    source = CORPORA["pystdlib"](config(tmp_path))
    names = ("abc.py", "empty/__init__.py", "json/decoder.py", "zlib.py")
    documents = list(source.documents())
    assert [document.file for document in documents] == [
        str(library / n) for n in names
    ]
    assert [document.text for document in documents] == [
        (library / n).read_bytes() for n in names
    ]
    corpus = prepare(config(tmp_path, corpus="pystdlib"))
    assert everything(corpus)[0] == b"".join(d.text for d in documents)
    facts = {"documents": 3, "empty_documents": 1, "version": platform.python_version()}
    assert {name: corpus.manifest[name] for name in facts} == facts
    (library / "abc.py").write_bytes(b"a = 2\n" * 20)
    changed = prepare(config(tmp_path, corpus="pystdlib"))
    assert changed.fingerprint != corpus.fingerprint


def test_a_python_without_sources_is_refused(tmp_path, library):
    for path in library.rglob("*.py"):
        path.unlink()
    with pytest.raises(ConfigError, match="pystdlib.*holds no source files"):
        prepare(config(tmp_path, corpus="pystdlib"))


def test_the_running_pythons_library_is_read(tmp_path):
    source = CORPORA["pystdlib"](config(tmp_path))
    files = [document.file for document in source.documents()]
    assert os.__file__ in files and len(files) == source.facts["files"] > 300
    assert sum(source.parts) > 5_000_000
