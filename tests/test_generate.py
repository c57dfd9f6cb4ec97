"""Continuations: greedy ones against full forwards, drawn ones against the softmax."""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import cli, generate, sequence, train
from lm.config import ConfigError
from lm.generate import Asked, Sampling, choose, continuations, decode
from lm.mixers import MIXERS
from tests import trained
from tests.subjects import (
    QUICK,
    VOCAB,
    close,
    initial,
    language_model,
    tokens,
    values,
)

PROMPTS = [tokens(1, n, seed=n)[0] for n in (9, 1, 5)]
COUNT, LENGTH = 12, 24
GREEDY = Sampling(temperature=0.0)


@functools.cache
def subject(pattern: tuple[str, ...], seed: int = 0, **changes):
    """(model, parameters off their initial values)."""
    model, _ = language_model(pattern, max(2, len(pattern)), **changes)
    noise = lambda p: p + 0.5 * values(*p.shape, seed=p.size + seed)
    return model, jax.tree.map(noise, initial(model))


@functools.cache
def best(model):
    """Jitted: the likeliest token after the first n of a text."""

    def run(params, text_1xT, seq, n):
        state = model.initial_state(1, 0)
        logits_1xTxV, _ = model.apply({"params": params}, text_1xT, seq, state)
        return jnp.argmax(logits_1xTxV[0, n - 1])

    return jax.jit(run, compiler_options=QUICK)


def by_full_forwards(model, params, prompt):
    """The greedy continuation, each token from a forward over all before it."""
    text_1xT = np.zeros((1, LENGTH), np.int32)
    text_1xT[0, : len(prompt)] = prompt
    for n in range(len(prompt), len(prompt) + COUNT):
        seq = sequence.from_segments((np.arange(LENGTH) < n)[None])
        text_1xT[0, n] = best(model)(params, text_1xT, seq, n)
    return text_1xT[0, len(prompt) : len(prompt) + COUNT]


@pytest.mark.parametrize(
    "pattern", [*((name,) for name in MIXERS), ("lstm", "attention"), ("window",)]
)
def test_greedy_is_the_best_of_full_forwards_for_ragged_prompts(pattern):
    for seed in range(10):  # some parameters repeat one token for ever
        model, params = subject(pattern, seed)
        got = continuations(model, params, PROMPTS, COUNT, GREEDY)
        if len(np.unique(got)) > 2:
            break
    assert len(np.unique(got)) > 2, "the model says too little to be a test"
    want = [by_full_forwards(model, params, prompt) for prompt in PROMPTS]
    assert [row.shape for row in got] == [(COUNT,)] * 3 and got[0].dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_learned_positions_are_those_of_the_row():
    model, params = subject(("attention_plain",), position="learned")
    want = [by_full_forwards(model, params, prompt) for prompt in PROMPTS]
    got = continuations(model, params, PROMPTS, COUNT, GREEDY)
    np.testing.assert_array_equal(got, want)


def test_a_long_prompt_grows_the_cache(monkeypatch):
    model, params = subject(("attention",))
    want = continuations(model, params, PROMPTS, COUNT, GREEDY)
    monkeypatch.setattr(decode, "BUCKET", 4)
    np.testing.assert_array_equal(
        continuations(model, params, PROMPTS, COUNT, GREEDY), want
    )


@pytest.mark.parametrize("pattern", [("attention",), ("lstm", "window"), ("mamba2",)])
def test_a_long_prompt_goes_through_in_pieces(pattern, monkeypatch):
    model, params = subject(pattern)
    prompts = [tokens(1, n, seed=n)[0] for n in (37, 1, 16, 17)]
    want = continuations(model, params, prompts, COUNT, GREEDY)
    monkeypatch.setattr(decode, "BUCKET", 4)
    monkeypatch.setattr(decode, "PIECE", 8)
    got = continuations(model, params, prompts, COUNT, GREEDY)
    np.testing.assert_array_equal(got, want)
    unrolled, leaves = model.unrolled(), model.unstack(params)
    logits_BxV, *_ = generate.read(unrolled, leaves, prompts, 64)
    monkeypatch.setattr(decode, "PIECE", 512)
    whole_BxV, *_ = generate.read(unrolled, leaves, prompts, 64)
    close(logits_BxV, whole_BxV)


def test_draws_follow_the_seed_and_the_row_alone():
    model, params = subject(("lstm",))
    draw = lambda prompts, **how: continuations(
        model, params, prompts, COUNT, Sampling(**how)
    )
    first = draw(PROMPTS, seed=3)
    np.testing.assert_array_equal(draw(PROMPTS, seed=3), first)
    assert (np.array(draw(PROMPTS, seed=4)) != first).any(1).all()
    others = [PROMPTS[0], tokens(1, 14, seed=8)[0], PROMPTS[2]]
    changed = draw(others, seed=3)
    np.testing.assert_array_equal(changed[::2], first[::2])
    copies = draw([PROMPTS[2]] * 4, seed=3)
    assert len({row.tobytes() for row in copies}) == 4
    np.testing.assert_array_equal(copies[2], first[2])
    np.testing.assert_array_equal(draw([PROMPTS[0]], seed=3)[0], first[0])


def test_a_row_draws_anew_at_every_position():
    model, params = subject(("lstm",))
    flat = jax.tree.map(jnp.zeros_like, params)
    drawn = continuations(model, flat, PROMPTS, 60, Sampling(seed=1))
    for row in drawn:
        counts = np.bincount(row, minlength=VOCAB)
        assert counts.max() < 20, "uniform logits, and yet one token prevails"
    assert (drawn[0] != drawn[1]).any()


LOGITS_V = np.log([0.4, 0.05, 0.3, 0.1, 0.15])
DRAWS = 20_000


@functools.cache
def drawn(how: Sampling) -> np.ndarray:
    """How often each token is drawn from LOGITS_V."""
    keys_B = jax.random.split(jax.random.key(0), DRAWS)
    logits_BxV = jnp.broadcast_to(jnp.float32(LOGITS_V), (DRAWS, len(LOGITS_V)))
    ids_B = choose(logits_BxV, keys_B, how.temperature, how)
    return np.bincount(ids_B, minlength=len(LOGITS_V))


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ((1.0, 0, 1.0), [0, 1, 2, 3, 4]),
        ((0.6, 0, 1.0), [0, 1, 2, 3, 4]),
        ((2.5, 0, 1.0), [0, 1, 2, 3, 4]),
        ((1.0, 5, 1.0), [0, 1, 2, 3, 4]),
        ((1.0, 3, 1.0), [0, 2, 4]),
        ((1.0, 1, 1.0), [0]),
        ((1.0, 0, 0.35), [0]),
        ((1.0, 0, 0.6), [0, 2]),
        ((1.0, 0, 0.75), [0, 2, 4]),
        ((1.0, 0, 0.9), [0, 2, 3, 4]),
        ((3.0, 0, 0.35), [0, 2]),  # the set is of the tempered probabilities
        ((1.0, 2, 0.75), [0, 2]),
        ((1.0, 3, 0.75), [0, 2]),  # 0.7 / 0.85 of the three
        ((1.0, 0, 1e-9), [0]),
        ((1.0, 0, 1.0, 0.3), [0, 2, 4]),
        ((2.0, 0, 1.0, 0.6), [0, 2, 4]),  # of the tempered probabilities
        ((1.0, 2, 1.0, 0.1), [0, 2]),
        ((1.0, 0, 1.0, 1.0), [0]),
    ],
)
def test_draws_have_the_probabilities_of_what_is_kept(how, kept):
    how = Sampling(*how)
    counts_V = drawn(how)
    assert np.flatnonzero(counts_V).tolist() == kept
    p_V = np.exp(LOGITS_V[kept] / how.temperature)
    expected_V = DRAWS * p_V / p_V.sum()
    chi_square = np.sum((counts_V[kept] - expected_V) ** 2 / expected_V)
    assert chi_square < 25, "a chance of less than 1 in 10,000"


def test_temperature_0_and_tiny_top_p_are_greedy():
    model, params = subject(("lstm", "attention"))
    want = continuations(model, params, PROMPTS, COUNT, GREEDY)
    for how in (Sampling(top_p=1e-9), Sampling(top_k=1), GREEDY._replace(top_k=3)):
        np.testing.assert_array_equal(
            continuations(model, params, PROMPTS, COUNT, how), want
        )


def test_what_cannot_be_continued_is_refused():
    model, params = subject(("attention",))
    with pytest.raises(ConfigError, match="no token"):
        continuations(model, params, [PROMPTS[0], PROMPTS[1][:0]], COUNT, GREEDY)
    model, config = language_model(("attention",), 1, position="learned")
    params, room = initial(model), config.data.context - len(PROMPTS[0])
    got = continuations(model, params, PROMPTS, room, GREEDY)
    assert np.shape(got) == (3, room)
    with pytest.raises(ConfigError, match="128 learned positions"):
        continuations(model, params, PROMPTS, room + 1, GREEDY)


@pytest.mark.parametrize("context", [1, 2, 3, 16])
def test_the_sample_of_a_run_fits_learned_positions(context):
    model, _ = language_model(("attention",), 1, position="learned")
    model = model.clone(positions=context, vocab_size=256)
    config = SimpleNamespace(
        run=SimpleNamespace(prompt="In the beginning ", sample_tokens=200), seed=0
    )
    corpus = SimpleNamespace(
        encode=lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32),
        decode=lambda ids: bytes(np.asarray(ids).tolist()),
    )
    text = generate.sample(model, initial(model), corpus, config)
    assert text[:1] == "I"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    train.run(trained.settings(folder), folder / "run")
    return folder / "run"


def test_a_sample_is_written_at_every_validation(workdir):
    samples = {p.name: p.read_bytes() for p in (workdir / "samples").iterdir()}
    assert samples.keys() == {"30.txt", "60.txt"}
    last = samples["60.txt"].decode()
    assert last.startswith("the ")
    config = json.loads((workdir / "config.json").read_text())
    asked = Asked(max_new_tokens=8, seed=config["seed"])
    assert [last] == generate.generate(*generate.opened(workdir)[:3], ["the "], asked)


def test_the_command_continues_prompts(workdir):
    """From a terminal: texts in order, prompts first, `n` of each."""
    root = Path(__file__).parent.parent
    prompts = ["the quick", "a"]
    flags = [f"--prompt={prompt}" for prompt in prompts]
    flags += [f"--workdir={workdir}", "--max_new_tokens=30", "--seed=5", "--top_k=9"]
    flags += ["--num_return_sequences=2"]
    command = [sys.executable, str(root / "run.py"), "generate", *flags]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    texts = done.stdout.removesuffix("\n").split("\n---\n")
    assert [len(text) for text in texts] == [39, 39, 31, 31]
    for text, prompt in zip(texts, np.repeat(prompts, 2), strict=True):
        assert text.startswith(prompt)
    assert texts[0] != texts[1] and texts[2] != texts[3]
    asked = Asked(max_new_tokens=30, num_return_sequences=2, top_k=9, seed=5)
    model, params, corpus, _ = generate.opened(workdir)
    assert texts == generate.generate(model, params, corpus, prompts, asked)


def test_the_command_chats_line_by_line(workdir, monkeypatch, capsys):
    lines = ["the quick", "a stitch"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{n}\n" for n in lines)))
    flags = ["--max_new_tokens=9", "--seed=4", "--end=.", "--user=", "--assistant= "]
    capsys.readouterr()
    assert cli.main(["chat", f"--workdir={workdir}", *flags]) == 0
    model, params, corpus, _ = generate.opened(workdir)
    asked = Asked(max_new_tokens=9, seed=4, stop_strings=(".",))
    chat = generate.Chat(model, params, corpus, asked, generate.Template("", " ", "."))
    want = "".join("".join(chat.say(line)) + "\n" for line in lines)
    assert capsys.readouterr().out == want and len(want) > 10
    assert cli.main(["chat", f"--workdir={workdir}", "--end="]) == 2
    assert "--end= must be" in capsys.readouterr().err
