"""Sets of TensorFlow Datasets: read without TensorFlow, absent ones named at once."""

import shlex
from pathlib import Path

import pytest
import tensorflow_datasets

from lm import config as configs
from lm.data import CORPORA, prepare, tfds
from lm.errors import ConfigError
from tests import prepared, runs
from tests.corpora import config, everything

SETS = ("tiny_shakespeare", "lm1b", "wiki40b_en", "c4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """rows/small, prepared by a process to which tensorflow is an error to import."""
    folder = tmp_path_factory.mktemp("sets")
    arguments = ("-m", "tests.prepared", "prepare", str(folder / "sets"))
    with runs.Process(*arguments, cache=folder) as process:
        assert process.end().out.endswith("without tensorflow\n")
    return folder


def small(folder, tmp_path, **changes):
    sets = dict(corpus="tfds", path="rows/small", tfds_dir=str(folder / "sets"))
    return config(tmp_path, **sets | dict(column="prose") | changes)


def test_a_set_trains_without_tensorflow(folder, tmp_path):
    settings = runs.settings(("lstm",)) | {
        "data.corpus": "tfds",
        "data.path": "rows/small:1.0.0",
        "data.column": "prose",
        "data.tfds_dir": str(folder / "sets"),
        "data.tfds_split": "train+test",
        "train.duration": "2 steps",
        "eval.every": "100%",
        "run.sample_tokens": 0,
    }
    arguments = ("-m", "tests.prepared", *runs.flags(settings, tmp_path / "run"))
    with runs.Process(*arguments, cache=tmp_path) as process:
        assert process.end().out.endswith("without tensorflow\n")
    result = runs.result(tmp_path / "run")
    assert (result["status"], result["data"]["documents"]) == ("done", 250)
    assert result["data"]["source"] == "tfds rows/small/1.0.0"
    assert result["data"]["tfds_split"] == "train+test"


def test_a_row_is_a_document_and_none_is_lost(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "ROWS", 64)
    corpus = prepare(small(folder, tmp_path, tfds_split="train"))
    text, _ = everything(corpus)
    want = sorted(prepared.text(row).encode() for row in range(200))
    assert sorted(text.splitlines(keepends=True)) == want
    facts = {"documents": 200, "rows": 200, "version": "1.0.0", "column": "prose"}
    assert {name: corpus.manifest[name] for name in facts} == facts
    part = CORPORA["tfds"](small(folder, tmp_path, tfds_split="test[:10]+train[50%:]"))
    rows = [document.text for document in part.documents()]
    assert len(rows) == 110 and len(set(rows)) == 110
    assert rows == [document.text for document in part.documents()]


def test_rows_are_pairs_by_templates(folder, tmp_path):
    templates = {"source": "{row}: {said.text.1}", "target": "{said.text.0} {parity}"}
    source = CORPORA["tfds"](small(folder, tmp_path, column="text", **templates))
    texts = sorted(document.text.decode() for document in source.documents())
    parity = ("even", "odd")
    want = [f"{r}: or so\tsaid {r} {parity[r % 2]}\n" for r in range(200)]
    assert texts == sorted(want)
    wrong = CORPORA["tfds"](small(folder, tmp_path, source="{rows}", target="x"))
    with pytest.raises(ConfigError, match=r"train, row 0 has no \{rows\}"):
        next(wrong.documents())


def test_the_fingerprint_follows_files_split_and_column(folder, tmp_path):
    splits = ("train", "train[:100]", "test")
    digests = [
        prepare(small(folder, tmp_path, tfds_split=split)).fingerprint
        for split in splits
    ]
    assert len(set(digests)) == 3
    elsewhere = folder / "sets" / ".." / "sets"
    moved = prepare(small(folder, tmp_path, tfds_dir=str(elsewhere)))
    assert moved.fingerprint == digests[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(path=None), "data.path is empty .* lm1b"),
        (dict(path="rows/large"), "rows/large'.*no such set is prepared.*'rows/large'"),
        (dict(path="rows:2.0.0"), "no such set is prepared"),
        (dict(path="a b"), "write name"),
        (
            dict(column="text"),
            "data.column='text' is no text of rows.*use one of prose",
        ),
        (dict(column="row"), "data.column='row' is no text"),
        (dict(tfds_split="valid"), "data.tfds_split='valid'.*has train, test"),
        (dict(tfds_split="train[:300]"), "data.tfds_split='train.:300.'.*has train"),
    ],
)
def test_errors_name_key_value_and_fix(folder, tmp_path, changes, message):
    with pytest.raises(ConfigError, match="(?s)" + message):
        prepare(small(folder, tmp_path, **changes))


def test_files_that_need_tensorflow_are_refused(tmp_path, folder):
    info = next((folder / "sets").rglob("dataset_info.json"))
    other = tmp_path / "sets" / info.parent.relative_to(folder / "sets")
    other.mkdir(parents=True)
    for path in info.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    text = info.read_text().replace('"array_record"', '"tfrecord"')
    (other / info.name).write_text(text)
    with pytest.raises(ConfigError, match="as tfrecord .* another data.tfds_dir"):
        prepare(small(tmp_path, tmp_path))


@pytest.mark.parametrize("name", SETS)
def test_an_absent_set_says_how_it_is_prepared(name, tmp_path, monkeypatch):
    """Without a try to download, which would take minutes where there's no network."""
    folder = str(tmp_path / "nothing here")
    config = configs.load(f"configs/{name}.py", {"data.tfds_dir": folder})
    data = configs.resolve(config).data
    with pytest.raises(ConfigError, match="no such set is prepared") as error:
        CORPORA["tfds"](data)
    *_, interpreter, flag, code = shlex.split(str(error.value))
    assert (interpreter, flag) == ("python", "-c")
    asked = []

    class Builder:
        def __init__(self, *args, **kwargs):
            asked.append((args, kwargs))

        def download_and_prepare(self):
            asked.append("prepare")

    monkeypatch.setattr(tensorflow_datasets, "builder", Builder)
    exec(code, {})
    kwargs = {"file_format": "array_record", "data_dir": folder}
    assert asked == [((data.path,), kwargs), "prepare"]
    assert not Path(folder).exists()


def test_the_command_line_says_it_in_one_line(tmp_path):
    settings = {"data.tfds_dir": str(tmp_path)}
    flags = runs.flags(settings, tmp_path / "run")
    arguments = ("run.py", *flags, "--config=configs/lm1b.py")
    with runs.Process(*arguments, cache=tmp_path) as process:
        process.end(2)
    (line,) = process.err.splitlines()
    assert line.startswith("error: data.path='lm1b': no such set is prepared")
