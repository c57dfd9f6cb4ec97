"""Text to text: rows that are pairs, what is scored, answers and their worth."""

import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from sacrebleu.metrics import BLEU

from lm import answers, cli, evaluate, generate, metrics, restore, scores, train
from lm import config as configs
from lm.data import baselines, prepare, train_batches
from lm.data.pairs import filled, pair
from lm.errors import ConfigError
from tests import runs

WORDS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op")


def rows(count: int) -> list[dict]:
    """Pairs that can be learnt: each word again, in capitals."""
    draw = random.Random(0)
    some = lambda: [draw.choice(WORDS) for _ in range(draw.randint(1, 4))]
    texts = [some() for _ in range(count)]
    return [
        {"said": " ".join(t), "meant": {"words": [" ".join(t).upper()]}, "id": i}
        for i, t in enumerate(texts)
    ]


def settings(folder, count=600, **changes) -> dict:
    path = folder / "rows.jsonl"
    if not path.exists():
        path.write_text("\n".join(map(json.dumps, rows(count))))
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return {
        "data.corpus": "jsonl",
        "data.path": str(path),
        "data.source": "say {said}",
        "data.target": "{meant.words.0}",
        "data.cache": str(folder / "cache"),
        "data.split": (0.8, 0.1, 0.1),
        "data.task.kind": "text_to_text",
        "data.task.length": 32,
        "data.task.held_out": 40,
        "data.task.metric": "bleu",
        "data.task.tests.other.sources": "other",
        "data.context": 32,
        "train.batch_tokens": 32 * 32,
        "run.sample_tokens": 0,
    } | dotted


def config(folder, **changes):
    base = str(runs.ROOT / "configs/base.py")
    return configs.resolve(configs.load(base, settings(folder, **changes)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The workdir of an LSTM below attention that learnt to write in capitals."""
    folder = tmp_path_factory.mktemp("pairs")
    learns = config(
        folder,
        model__pattern=("lstm", "attention"),
        model__width=32,
        model__mlp_width=64,
        optim__lr=1e-2,
        train__duration="16 epochs",
        eval__every="100%",
        eval__rows=16,
    )
    train.run(learns, folder / "run")
    return folder / "run"


def texts(data, batch) -> list[tuple[str, str]]:
    """(what is read, what is scored) of each row."""
    read = lambda ids: data.corpus.decode(ids).decode()
    return [
        (read(t[: np.nonzero(w)[0][0] + 1]), read(y[w > 0]))
        for t, y, w in zip(batch.tokens, batch.targets, batch.weights, strict=True)
    ]


def test_every_pair_of_training_comes_once_an_epoch_and_its_target_is_scored(tmp_path):
    c = config(tmp_path)
    data = prepare(c.data)
    count = data.manifest["pairs"]["train"]["fitting"]
    batches = train_batches(data, c)
    assert batches.steps_per_epoch == count / 32
    steps = range(2 * count // 32 + 1)
    seen = [row for step in steps for row in texts(data, batches(step))]
    whole = sorted(zip(*data.training_pairs(), strict=True))
    assert sorted((s[:-1], t[:-1]) for s, t in seen[:count]) == whole
    assert sorted(seen[:count]) == sorted(seen[count : 2 * count])
    assert seen[:count] != seen[count : 2 * count]
    for source, target in seen:
        assert source.startswith("say ") and source.endswith("\t")
        assert target == source[4:-1].upper() + "\n"


def test_a_test_with_other_sources_has_the_same_targets(tmp_path):
    data = prepare(config(tmp_path).data)
    (own,), (other,) = (data.held_out("test", name, 40) for name in ("same", "other"))
    mine, theirs = texts(data, own), texts(data, other)
    assert [target for _, target in mine] == [target for _, target in theirs]
    assert sorted(s for s, _ in theirs) != [s for s, _ in theirs]
    assert sum(a[0] == b[0] for a, b in zip(mine, theirs, strict=True)) < 5
    pairs = data.held_out_pairs("test", "same")
    assert [(f"{p.source}\t", f"{p.reference}\n") for p in pairs] == mine
    split = data.corpus.tokens("test")
    everything = data.corpus.decode(split).decode()
    assert all(f"{p.source}\t{p.reference}\n" in everything for p in pairs)
    assert len({(p.source, p.reference) for p in pairs}) > 30  # some are drawn alike


def test_longer_pairs_are_left_out_and_counted(tmp_path):
    few = {"data__task__held_out": 9}
    short = config(tmp_path, data__task__length=16, data__context=16, **few)
    short = prepare(short.data)
    whole = prepare(config(tmp_path, **few).data)
    for split in ("train", "validation", "test"):
        few, all_ = (d.manifest["pairs"][split] for d in (short, whole))
        assert few["documents"] == all_["documents"] == all_["fitting"] + 2
        assert 0 < few["fitting"] < all_["fitting"]
    (batch,) = short.held_out("test", "same", 9)
    assert batch.tokens.shape == (9, 16)


def test_a_model_that_learnt_writes_the_answers_and_needs_its_sources(learned):
    test = runs.result(learned)["test"]
    same, other = test["same"], test["other"]
    assert same["exact"] > 0.9 and same["bleu"] > 90
    assert same["interval"][0] <= same["bleu"] <= same["interval"][1] + 1e-9
    assert other["bits_per_byte"] > same["bits_per_byte"] + 0.5
    assert "bleu" not in other and len(same["answers"]) == answers.SHOWN
    wrong = [a for _, a, reference in same["answers"] if a != reference]
    assert len(wrong) <= 1
    pairs = prepare(restore.load(learned)[0].data).held_out_pairs("test", "same")
    sizes = [len(pair.reference) + 1 for pair in pairs]
    assert [size for _, size in same["blocks"]] == sizes


def test_bits_a_byte_and_answers_are_those_of_the_text_commands(learned):
    config, model, params, data = restore.load(learned)
    pairs = data.held_out_pairs("test", "same")
    found = evaluate.task("same", model, params, data, "test", config)
    whole = [data.corpus.encode(f"{p.source}\t{p.reference}\n") for p in pairs]
    scored = scores.log_probs(model, params, whole)
    both = list(zip(scored, pairs, strict=True))
    nats = [-s.log_p_N[len(p.ids) - 1 :].sum() for s, p in both]
    mine = [n for n, _ in found["blocks"]]
    np.testing.assert_allclose(mine, nats, rtol=1e-4, atol=1e-5)
    bits = sum(nats) / sum(len(p.reference) + 1 for p in pairs) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-4)

    asked = generate.Asked(max_new_tokens=20, do_sample=False, stop_strings=("\n",))
    prompts = [f"{p.source}\t" for p in pairs]
    told = generate.generate(model, params, data.corpus, prompts, asked)
    ids = [p.ids for p in pairs]
    written = answers.written(model, params, data.corpus, 32, ids, 16)
    assert written == [
        t[len(p) :].rstrip("\n") for t, p in zip(told, prompts, strict=True)
    ]


def test_an_answer_ends_with_its_mark_or_the_row(learned):
    _, model, params, data = restore.load(learned)
    sources = [data.corpus.encode(text) for text in ("say ab\t", f"say {'ab ' * 12}\t")]
    short, longer = answers.written(model, params, data.corpus, 12, sources, 2)
    assert "\n" not in short and len(short) <= 12 and longer == ""


def test_evaluate_prints_the_figures_of_pairs(learned, capsys):
    assert cli.main(["evaluate", f"--workdir={learned}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["bits_per_byte", "bleu"]
    assert [line.split()[0] for line in lines[1:]] == ["same", "other", "copy"]
    assert lines[2].split()[-1] == "-"
    assert lines[3].split()[1:-1] == ["-"] * 5 and float(lines[3].split()[-1]) < 50


def test_copying_the_source_and_the_classical_classifiers(tmp_path):
    data = prepare(config(tmp_path).data)
    pairs = data.held_out_pairs("test", "same")
    sources, references = ([p[i] for p in pairs] for i in (1, 2))
    want = BLEU().corpus_score(sources, [references]).score
    assert baselines(data) == {"copy": {"bleu": want}}

    folder = tmp_path / "classes"
    folder.mkdir()
    label = lambda word: "no" if word in "ab cd" else "yes"
    kinds = [
        {"said": f"{word} {i % 7} x", "meant": {"words": [label(word)]}}
        for i, word in enumerate(WORDS * 60)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, kinds)))
    data = prepare(config(folder, data__task__metric="exact").data)
    references = [p.reference for p in data.held_out_pairs("test", "same")]
    found = baselines(data)
    assert found["majority"] == {"exact": references.count("yes") / len(references)}
    assert found["bag_of_words"] == {"exact": 1.0}


def test_metrics_by_hand():
    assert metrics.f1(["The cat, sat"], ["a cat sat down"]).value == pytest.approx(80)
    assert metrics.f1([""], ["the"]).value == 100
    assert metrics.f1([""], ["cat"]).value == 0
    # The longest common subsequence of 4 and 5 words is 3: 2 * 3 / (4 + 5).
    found = metrics.rouge(["one two three four"], ["one three four five six"])
    assert found.value == pytest.approx(100 * 2 * 3 / 9)
    many = [f"a verse of number {i} and more" for i in range(40)]
    found = metrics.bleu(many, many)
    assert found == pytest.approx((100, 100, 100))
    half = metrics.bleu(many, many[:20] + ["something else entirely, said here"] * 20)
    assert half.low < half.value < half.high < 100
    spread = metrics.f1(["x"] * 4, ["x", "x", "x", "y"])
    assert spread.value == 75 and spread.low < 75 < spread.high <= 100


def test_templates_read_rows_and_name_what_is_missing():
    row = {"q": "who?\nme", "answers": {"text": [b"he", "she"]}, "n": np.int64(3)}
    assert filled("{q} of {n}: {answers.text.1}", row, "row 1") == "who?\nme of 3: she"
    assert filled("{answers.text.0}", row, "row 1") == "he"
    assert pair(" a \n b", "c\td") == b"a b\tc d\n"
    for template, words in (
        ("{a}", "row 1 has no {a}: at 'a' there are q, answers, n"),
        ("{answers.text.2}", "at '2'"),
        ("{answers.text}", "is a list, no text"),
    ):
        with pytest.raises(ConfigError, match=words):
            filled(template, row, "row 1")


def test_rows_of_every_kind_of_table_and_turns_of_a_dialogue(tmp_path):
    made = rows(600)
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "rows.parquet")
    fromjson = prepare(config(tmp_path).data)
    parquet = {"data__corpus": "parquet", "data__path": str(tmp_path / "rows.parquet")}
    fromparquet = prepare(config(tmp_path, **parquet).data)
    assert fromjson.training_pairs() == fromparquet.training_pairs()

    talks = [
        {
            "turns": [
                {"role": "user", "content": f"hello {i}"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": "bye"},
                {"role": "assistant", "content": f"good bye {i}"},
            ]
        }
        for i in range(200)
    ]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    data = prepare(
        config(
            tmp_path,
            data__path=str(tmp_path / "talks.jsonl"),
            data__source=None,
            data__target=None,
            data__dialogue="turns",
            data__context=64,
            data__task__length=64,
            data__task__held_out=9,
            train__batch_tokens=640,
        ).data
    )
    found = dict(zip(*data.training_pairs(), strict=True))
    assert found["user: hello 3 assistant:"] == "hi"
    assert found["user: hello 3 assistant: hi user: bye assistant:"] == "good bye 3"


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {
                "data__corpus": "kjv",
                "data__path": None,
                "data__source": None,
                "data__target": None,
            },
            "take kjv_bbe",
        ),
        ({"data__tokenizer": "words"}, "data.tokenizer"),
        ({"data__max_document": 20}, "data.max_document=20 cuts pairs"),
        ({"data__task__examples": 9}, "cap it by data.train_bytes"),
        (
            {"data__task__held_out": 400},
            "validation split .* data.task.held_out=400",
        ),
        (
            {"data__task__length": 8, "data__context": 8},
            "0 pairs .* data.task.length=8",
        ),
        ({"data__task__tests__few__length": 12}, "pairs .* data.task.length=12 tokens"),
        ({"data__task__metric": "bleurt"}, "data.task.metric='bleurt'"),
        ({"data__target": None}, "data.source='say {said}': pairs are made by"),
        ({"data__dialogue": "turns"}, "data.dialogue alone"),
        ({"data__source": "{sad}"}, "has no {sad}: at 'sad' there are said, meant, id"),
        ({"data__corpus": "kjv", "data__path": None}, "data.corpus='kjv'"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        prepare(config(tmp_path, **changes).data)
