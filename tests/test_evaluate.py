"""Both protocols against forwards written out here, token by token."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lm import evaluate, restore, sequence, train
from lm.config import ConfigError
from lm.data import prepare
from tests import trained
from tests.subjects import VOCAB, initial, language_model, values
from tests.subjects import tokens as draw_tokens

TEXT_N = draw_tokens(1, 101, seed=5)[0]
DOCUMENTS = np.array([0, 21, 22, 60])
BYTES_V = np.arange(VOCAB) % 4 + 1
CORPUS = SimpleNamespace(
    tokens=lambda split: TEXT_N,
    documents=lambda split: DOCUMENTS,
    sizes=lambda split: BYTES_V[TEXT_N],
    unknown=None,
)
ROWS, CONTEXT, CHUNK = 3, 16, 8
INPUTS = len(TEXT_N) - 1


def config(chunk: int = CHUNK):
    return SimpleNamespace(
        eval=SimpleNamespace(rows=ROWS, stream_chunk=chunk),
        data=SimpleNamespace(context=CONTEXT),
    )


@functools.cache
def subject(pattern: tuple[str, ...], depth: int = 2, **changes):
    """(model, parameters off their initial values)."""
    model, _ = language_model(pattern, depth, **changes)
    noise = lambda p: p + 0.3 * values(*p.shape, seed=p.size)
    return model, jax.tree.map(noise, initial(model))


@functools.cache
def log_probabilities(model):
    def run(params, tokens_1xT, seq):
        state = model.initial_state(1, 0)
        return jax.nn.log_softmax(
            model.apply({"params": params}, tokens_1xT, seq, state)[0]
        )

    return jax.jit(run)


def forward(model, params, pieces, length: int):
    """(nats, positions, targets) of `pieces`, each read afresh and alone.

    A piece (start, first, stop) reads tokens from start, and scores from first to stop.
    """
    rows = []
    for start, first, stop in pieces:
        index_T = np.arange(start, start + length)
        ids_T = np.searchsorted(DOCUMENTS, index_T, side="right")
        seq = sequence.from_segments(np.where(index_T < stop, ids_T, 0)[None])
        read_1xT = TEXT_N[np.minimum(index_T, INPUTS)][None]
        log_p_TxV = log_probabilities(model)(params, read_1xT, seq)[0]
        for i in range(first, stop):
            if i + 1 not in DOCUMENTS:
                nats = -float(log_p_TxV[i - start, TEXT_N[i + 1]])
                position = int(seq.positions[0, i - start])
                rows.append((nats, position, TEXT_N[i + 1]))
    return (np.array(column) for column in zip(*rows, strict=True))


def agrees(result, nats_N, positions_N, targets_N) -> None:
    """An EVAL made with blocks of one token is these tokens, in order."""
    blocks_Nx2 = np.array(result["blocks"])
    np.testing.assert_allclose(blocks_Nx2[:, 0], nats_N, 1e-4, 1e-5)
    np.testing.assert_array_equal(blocks_Nx2[:, 1], BYTES_V[targets_N])
    assert result["tokens"] == len(nats_N) == INPUTS - len(DOCUMENTS) + 1
    assert result["bytes"] == BYTES_V[targets_N].sum()
    np.testing.assert_allclose(result["nats"], nats_N.sum(), 1e-5)
    np.testing.assert_allclose(result["nats_per_token"], nats_N.mean(), 1e-5)
    bits = nats_N.sum() / np.log(2) / BYTES_V[targets_N].sum()
    np.testing.assert_allclose(result["bits_per_byte"], bits, 1e-5)
    np.testing.assert_allclose(result["perplexity"], np.exp(nats_N.mean()), 1e-4)
    counted = 0
    for first, last, nats in result["by_position"]:
        inside_N = (positions_N >= first) & (positions_N <= last)
        np.testing.assert_allclose(nats, nats_N[inside_N].mean(), 1e-5)
        assert positions_N[inside_N].max() == last
        counted += inside_N.sum()
    assert counted == len(nats_N), "positions are counted once"


@pytest.fixture
def token_blocks(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 1)


@pytest.mark.parametrize("pattern", [("lstm",), ("attention", "rglru")])
def test_a_window_is_a_forward_of_its_own(token_blocks, pattern):
    model, params = subject(pattern)
    starts = range(0, INPUTS, CONTEXT)
    pieces = [(s, s, min(s + CONTEXT, INPUTS)) for s in starts]
    result = evaluate.window(model, params, CORPUS, "test", config())
    agrees(result, *forward(model, params, pieces, CONTEXT))
    protocol = {"protocol": "window", "context": CONTEXT, "cache": 0}
    assert protocol.items() <= result.items()


def lanes():
    part = -(-INPUTS // ROWS)
    return [(s, min(s + part, INPUTS)) for s in range(0, INPUTS, part)], part


@pytest.mark.parametrize(
    ("pattern", "chunk"),
    [
        (("lstm",), CHUNK),
        (("gru",), 5),
        (("rglru",), CHUNK),
        (("lstm", "window"), CHUNK),
        (("window",), 3),  # a cache of W - 1 tokens, and no more, is a whole window
    ],
)
def test_a_stream_is_one_long_forward(token_blocks, pattern, chunk):
    model, params = subject(pattern)
    ends, part = lanes()
    pieces = [(start, start, stop) for start, stop in ends]
    result = evaluate.stream(model, params, CORPUS, "test", config(chunk))
    agrees(result, *forward(model, params, pieces, part))
    protocol = {"protocol": "stream", "context": chunk, "cache": chunk}
    assert protocol.items() <= result.items()


@pytest.mark.parametrize("chunk", [CHUNK, 5])
def test_attention_sees_a_cache_of_the_stated_size(token_blocks, chunk):
    # In the only layer keys are of tokens alone, so what they saw themselves is moot.
    model, params = subject(("attention",), 1)
    pieces = [
        (max(start, first - chunk), first, min(first + chunk, stop))
        for start, stop in lanes()[0]
        for first in range(start, stop, chunk)
    ]
    nats_N, _, targets_N = forward(model, params, pieces, 2 * chunk)
    positions_N = [
        i - max(start, *(d for d in DOCUMENTS if d <= i))
        for start, stop in lanes()[0]
        for i in range(start, stop)
        if i + 1 not in DOCUMENTS
    ]
    result = evaluate.stream(model, params, CORPUS, "test", config(chunk))
    agrees(result, nats_N, np.array(positions_N), targets_N)


def test_blocks_are_of_equal_tokens_and_sum_to_the_whole(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 30)
    model, params = subject(("lstm",))
    for protocol in evaluate.PROTOCOLS.values():
        result = protocol(model, params, CORPUS, "test", config())
        assert result["tokens"] == 97 and len(result["blocks"]) == 4
        nats, sizes = map(sum, zip(*result["blocks"], strict=True))
        np.testing.assert_allclose(nats, result["nats"], 1e-12)
        assert sizes == result["bytes"]


def test_the_figures_of_a_few_tokens():
    nats_N = np.log([2.0, 4.0, 8.0, 16.0, 1e9])
    weights_N, targets_N = np.array([1, 1, 1, 1, 0.0]), np.array([0, 1, 2, 3, 3])
    positions_N = np.array([0, 1, 2, 3, 4])
    sizes_N = BYTES_V[targets_N]
    result = evaluate.summarise(nats_N, weights_N, positions_N, sizes_N)
    assert (result["tokens"], result["bytes"]) == (4, 1 + 2 + 3 + 4)
    np.testing.assert_allclose(result["bits_per_byte"], (1 + 2 + 3 + 4) / 10)
    np.testing.assert_allclose(result["nats_per_token"], 2.5 * np.log(2))
    np.testing.assert_allclose(result["perplexity"], 2**2.5)
    want = np.array([[0, 0, 1], [1, 1, 2], [2, 3, 3.5]]) * [1, 1, np.log(2)]
    np.testing.assert_allclose(result["by_position"], want)


def test_an_unknown_target_is_charged_its_spelling(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 2)
    nats_N, weights_N = np.log([2.0, 4.0, 8.0, 16.0]), np.array([1, 1, 1, 0.0])
    sizes_N, positions_N = np.array([3, 5, 1, 7]), np.arange(4)
    plain = evaluate.summarise(nats_N, weights_N, positions_N, sizes_N)
    unknown_N = np.array([False, True, False, True])
    result = evaluate.summarise(nats_N, weights_N, positions_N, sizes_N, unknown_N)
    spelling = 6 * np.log(257)
    assert result["unknown"] == {
        "tokens": 1,
        "bytes": 5,
        "nats": pytest.approx(spelling),
    }
    for own in ("tokens", "bytes", "nats_per_token", "perplexity", "by_position"):
        assert result[own] == plain[own]
    assert result["nats"] == pytest.approx(np.log(64) + spelling)
    assert result["bits_per_byte"] == pytest.approx((6 + spelling / np.log(2)) / 9)
    assert sum(nats for nats, _ in result["blocks"]) == pytest.approx(result["nats"])
    assert "unknown" not in plain


def test_learned_positions_have_no_stream():
    model, config_ = language_model(("attention",), position="learned")
    params = initial(model)
    result = evaluate.stream(model, params, CORPUS, "test", config_)
    assert list(result) == ["unavailable"] and "positions" in result["unavailable"]
    assert evaluate.window(model, params, CORPUS, "test", config())["tokens"] == 97


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    train.run(trained.settings(folder), folder / "run")
    return folder / "run"


def test_a_workdir_is_evaluated_on_every_split(workdir):
    stored = json.loads((workdir / "result.json").read_text())
    both = ("window", "stream")
    test = evaluate.run(workdir, "test", both)
    assert json.loads(json.dumps(test)) == stored["test"]
    validation = evaluate.run(workdir, "validation", ("window",))
    assert json.loads(json.dumps(validation)) == stored["validation"]
    own = evaluate.run(workdir, "train", both)
    corpus = prepare(restore.load(workdir)[0].data)
    for result in own.values():
        assert result["tokens"] == len(corpus.tokens("train")) - 1
    assert own["window"]["nats"] != own["stream"]["nats"]
    with pytest.raises(ConfigError, match="split 'tset'"):
        evaluate.run(workdir, "tset", both)


def test_a_run_over_words_is_charged_for_the_unknown(tmp_path):
    raw = b"".join(trained.TEXT + b"odd%d " % n for n in range(60))
    data = {"tokenizer": "words", "context": 8}
    train_ = {"duration": "2 steps", "batch_tokens": 32}
    evals = {"stream_chunk": 8}
    changes = dict(data=data, train=train_, eval=evals, run={"prompt": " the"})
    config = trained.settings(tmp_path, raw, **changes)
    result = train.run(config, tmp_path / "run")
    corpus = prepare(config.data)
    sizes_N = corpus.sizes("test")[1:]
    unknown_N = corpus.tokens("test")[1:] == corpus.unknown
    for test in result["test"].values():
        assert test["bytes"] == sizes_N.sum()
        assert test["unknown"]["tokens"] == unknown_N.sum() > 0
        assert test["unknown"]["bytes"] == sizes_N[unknown_N].sum()
        own = test["nats_per_token"] * test["tokens"]
        assert own + test["unknown"]["nats"] == pytest.approx(test["nats"])
    assert (tmp_path / "run" / "samples" / "2.txt").read_text().startswith(" the")


def test_a_workdir_without_a_checkpoint_is_refused(tmp_path):
    config = trained.settings(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(ConfigError, match="no checkpoint"):
        restore.load(tmp_path)


def test_a_workdir_of_another_version_is_refused_by_its_key(tmp_path):
    config = trained.settings(tmp_path).to_dict()
    config["model"]["widht"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = r"another version.*model\.widht.*model\.width"
    with pytest.raises(ConfigError, match=words):
        restore.load(tmp_path)
