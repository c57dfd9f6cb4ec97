"""Beams, penalties, filters, ends of texts, streams: transformers is the reference."""

import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as processors

from lm import generate, interop, scores
from lm.errors import ConfigError
from lm.generate import Asked, Beams, Sampling, continuations, search
from lm.generate.sampling import filtered, penalised
from tests.subjects import VOCAB, initial, language_model
from tests.test_generate import PROMPTS, subject
from tests.test_interop import SIZES, random_model

COUNT = 12
NAMES = ("gpt2", "llama-biased", "mamba2")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """name -> (model of transformers, our model, our parameters)."""
    made = {}

    def load(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            reference = random_model(name)
            reference.save_pretrained(folder)
            _, model, params, _ = interop.from_pretrained(folder)
            made[name] = reference, model, params
        return made[name]

    return load


def theirs(reference, prompt, **asked):
    """Ids of transformers after one prompt, a row each."""
    ids = torch.from_numpy(np.asarray(prompt, np.int64))[None]
    ones = torch.ones_like(ids)
    sizes = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": COUNT}
    out = reference.generate(ids, attention_mask=ones, **sizes | asked)
    return [row[len(prompt) :].tolist() for row in out]


def prompts(seed=0):
    rng = np.random.default_rng(seed)
    sizes = (7, 2, 19)
    return [rng.integers(0, SIZES["vocab_size"], n).astype(np.int32) for n in sizes]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_greedy_under_a_repetition_penalty_is_transformers(loaded, name, penalty):
    reference, model, params = loaded(name)
    how = Sampling(temperature=0.0, repetition_penalty=penalty)
    got = continuations(model, params, prompts(), COUNT, how)
    for row, prompt in zip(got, prompts(), strict=True):
        (want,) = theirs(reference, prompt, repetition_penalty=penalty)
        assert row.tolist() == want


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "how",
    [
        Beams(4),
        Beams(4, length_penalty=2.0),
        Beams(4, length_penalty=-1.0, early_stopping=True),
        Beams(3, length_penalty=0.0),
    ],
)
def test_beams_are_those_of_transformers(loaded, name, how):
    """A ragged batch of prompts here, each alone there; some tokens end a text."""
    reference, model, params = loaded(name)
    for marks, penalty in (((), 1.0), (range(0, 61, 9), 1.0), ((5, 8), 1.2)):
        marks = list(marks)
        found = search(
            model,
            params,
            prompts(),
            COUNT,
            how,
            penalty,
            lambda ids, marks=marks: ids[-1] in marks,
            len(marks),
        )
        for beams, prompt in zip(found, prompts(), strict=True):
            want = theirs(
                reference,
                prompt,
                num_return_sequences=how.num_beams,
                eos_token_id=marks or None,
                repetition_penalty=penalty,
                **how._asdict(),
            )
            got = [beam.ids.tolist() for beam in beams]
            assert got == [cut(row, marks) for row in want]
            assert [beam.score for beam in beams] == sorted(
                [beam.score for beam in beams], reverse=True
            )


def cut(row, marks):
    """Without padding, which transformers puts after the end of a shorter row."""
    for n, token in enumerate(row):
        if token in marks:
            return row[: n + 1]
    return row


@pytest.mark.parametrize("pattern", [("lstm",), ("mamba2", "attention")])
def test_enough_beams_find_the_likeliest_of_all_texts(pattern):
    model, params = subject(pattern)
    every = list(itertools.product(range(VOCAB), repeat=3))
    (found,) = search(model, params, PROMPTS[:1], 3, Beams(VOCAB**2))
    texts = [np.concatenate([PROMPTS[0], ids]).astype(np.int32) for ids in every]
    log_p = [s.log_p_N[-3:].sum() for s in scores.log_probs(model, params, texts)]
    best = np.argsort(log_p)[::-1][:20]
    assert [tuple(beam.ids) for beam in found[:20]] == [every[i] for i in best]
    np.testing.assert_allclose(
        [3 * beam.score for beam in found[:20]], np.array(log_p)[best], rtol=1e-4
    )


@pytest.mark.parametrize("pattern", [("attention",), ("mamba2",), ("lstm",)])
def test_a_prompt_among_others_is_as_alone(pattern):
    model, params = subject(pattern)
    how = Sampling(temperature=0.0, repetition_penalty=1.4)
    both = continuations(model, params, PROMPTS, COUNT, how)
    beams = search(model, params, PROMPTS, COUNT, Beams(3), 1.4)
    for prompt, row, found in zip(PROMPTS, both, beams, strict=True):
        (alone,) = continuations(model, params, [prompt], COUNT, how)
        assert row.tolist() == alone.tolist()
        (apart,) = search(model, params, [prompt], COUNT, Beams(3), 1.4)
        assert [b.ids.tolist() for b in found] == [b.ids.tolist() for b in apart]


@pytest.mark.parametrize(
    "how",
    [
        Sampling(0.7),
        Sampling(1.3, top_k=5),
        Sampling(1.0, top_p=0.6),
        Sampling(2.0, top_p=0.3, top_k=9),
        Sampling(1.0, min_p=0.2),
        Sampling(0.5, top_k=20, top_p=0.9, min_p=0.05),
        Sampling(1.1, top_p=0.5, min_p=0.5, repetition_penalty=1.7),
    ],
)
def test_filters_leave_the_distribution_that_transformers_does(how):
    rng = np.random.default_rng(0)
    logits_BxV = rng.normal(size=(16, 40)).astype(np.float32) * 3
    read_BxT = rng.integers(0, 40, (16, 9))
    p = torch.from_numpy(logits_BxV.copy())
    for kind, value in (
        (processors.RepetitionPenaltyLogitsProcessor, how.repetition_penalty),
        (processors.TemperatureLogitsWarper, how.temperature),
        (processors.TopKLogitsWarper, how.top_k),
        (processors.TopPLogitsWarper, how.top_p),
        (processors.MinPLogitsWarper, how.min_p),
    ):
        if value:
            p = kind(value)(torch.from_numpy(read_BxT), p)
    seen_BxV = np.zeros_like(logits_BxV, bool)
    np.put_along_axis(seen_BxV, read_BxT, True, 1)
    ours = penalised(jnp.asarray(logits_BxV), seen_BxV, how.repetition_penalty)
    ours = jax.nn.softmax(filtered(ours / how.temperature, how))
    np.testing.assert_allclose(ours, torch.softmax(p, -1), atol=1e-6)
    assert (np.asarray(ours) == 0).any() or how == Sampling(0.7)


TEXT = SimpleNamespace(
    begin=(),
    encode=lambda text: np.array([ord(c) % VOCAB for c in text], np.int32),
    decode=lambda ids: bytes(ord("a") + int(i) for i in ids),
)


def spoken(**asked):
    model, params = subject(("lstm", "attention"), 3)
    asked = Asked(**{"max_new_tokens": 30} | asked)
    return generate.generate(model, params, TEXT, ["hello", "b"], asked), asked


def test_a_text_ends_where_it_is_told_to():
    whole, _ = spoken(seed=5)
    assert [len(text) for text in whole] == [35, 31]
    made = [whole[0][5:], whole[1][1:]]
    stop = made[0][7:9]
    want = [text[: text.index(stop) + 2] if stop in text else text for text in made]
    stopped, _ = spoken(seed=5, stop_strings=("not there", stop))
    assert stopped == [whole[0][:5] + want[0], whole[1][:1] + want[1]]
    assert len(stopped[0]) < 35
    mark = made[1][4]
    ended, _ = spoken(seed=5, eos_token_id=(ord(mark) - ord("a"),))
    cut = [text.split(mark)[0] for text in made]
    assert ended == [whole[0][:5] + cut[0], whole[1][:1] + cut[1]]


def test_max_length_counts_the_prompt():
    texts, _ = spoken(seed=5, max_length=9)
    assert [len(text) for text in texts] == [9, 9]
    whole, _ = spoken(seed=5)
    assert texts == [text[:9] for text in whole]
    beams, _ = spoken(do_sample=False, num_beams=3, max_length=9)
    assert [len(text) for text in beams] == [9, 9]
    with pytest.raises(ConfigError, match="--max_length=4 leaves nothing"):
        spoken(max_length=4)


def test_a_stream_gives_what_generate_does():
    """Characters of several tokens come whole, and the text ends where it does."""
    model, params = subject(("lstm",), 1)
    code = "aé漢€".encode()
    text = SimpleNamespace(
        begin=(),
        encode=TEXT.encode,
        decode=lambda ids: bytes(code[int(i) % len(code)] for i in ids),
    )
    for asked in (
        Asked(max_new_tokens=40, seed=2),
        Asked(max_new_tokens=40, seed=2, eos_token_id=(7,)),
        Asked(max_new_tokens=40, seed=2, stop_strings=("é",)),
        Asked(max_new_tokens=9, do_sample=False, repetition_penalty=1.5),
    ):
        pieces = list(generate.stream(model, params, text, "hey", asked))
        (whole,) = generate.generate(model, params, text, ["hey"], asked)
        before = text.decode(text.encode("hey")).decode(errors="replace")
        assert len(pieces) > 1 and before + "".join(pieces) == whole


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens=0 must be at least 1"),
        ({"top_p": 0.0}, "--top_p=0.0 must be above 0"),
        ({"min_p": 1.5}, "--min_p=1.5 must be in"),
        ({"repetition_penalty": 0.0}, "--repetition_penalty=0.0 must be above 0"),
        ({"temperature": -1.0}, "--temperature=-1.0 must be 0"),
        ({"num_beams": 3}, "--num_beams=3 must be 1 where tokens are drawn"),
        (
            {"num_return_sequences": 2, "do_sample": False},
            "--num_return_sequences=2 must be at most num_beams=1",
        ),
        ({"stop_strings": ("",)}, "--stop_strings="),
        ({"eos_token_id": (-1,)}, "--eos_token_id="),
        ({"seed": -1}, "--seed=-1"),
        ({"top_k": -1}, "--top_k=-1"),
    ],
)
def test_what_means_nothing_is_refused_by_name(asked, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        spoken(**{"seed": 1} | asked)


def transcript(turns, template, answers):
    """What a chat has read when the last turn is to be answered."""
    text = ""
    for said, answer in itertools.zip_longest(turns, answers):
        text += f"{template.user}{said}{template.assistant}"
        if answer is not None:
            text += answer
            text += "" if answer.endswith(template.end) else template.end
    return text


@pytest.mark.parametrize("pattern", [("attention",), ("mamba2", "window"), ("lstm",)])
@pytest.mark.parametrize("end", ["\n", "e"])
def test_a_chat_answers_as_to_its_transcript_and_reads_nothing_twice(pattern, end):
    model, params = subject(pattern, 2)
    letters = "abcdefghij\n"
    text = SimpleNamespace(
        encode=lambda t: np.array([letters.find(c) % VOCAB for c in t], np.int32),
        decode=lambda ids: "".join(letters[int(i)] for i in ids).encode(),
        begin=(),
    )
    template = generate.Template("ab", "cd", end)
    asked = Asked(
        max_new_tokens=12, seed=3, stop_strings=(end,), repetition_penalty=1.1
    )
    chat = generate.Chat(model, params, text, asked, template, room=128)
    turns, answers = ["hij", "", "gggg"], []
    for n in range(3):
        answer = "".join(chat.say(turns[n]))
        whole = transcript(turns[: n + 1], template, answers)
        (want,) = generate.generate(model, params, text, [whole], asked)
        assert whole + answer == want
        answers.append(answer)
        assert chat.read == len(want)
    assert len(set(answers)) == 3


MARKED = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}a"
)


@pytest.mark.parametrize("pattern", [("attention",), ("mamba2", "window"), ("lstm",)])
@pytest.mark.parametrize("told", ["as said", "otherwise"])
def test_a_chat_by_a_template_of_jinja(pattern, told):
    """Each answer is that to the whole transcript, and nothing is read twice, unless
    the template tells an earlier answer otherwise."""
    model, params = subject(pattern, 2)
    letters = "abcdefghius"
    text = SimpleNamespace(
        encode=lambda t: np.array([letters.find(c) for c in t], np.int32),
        decode=lambda ids: "".join(letters[int(i)] for i in ids).encode(),
        begin=(),
    )
    source = (
        MARKED if told == "as said" else MARKED.replace("content }}", "content[:2] }}")
    )
    template = interop.ChatTemplate(source, "x", {"eos_token": "g"})
    asked = Asked(
        max_new_tokens=8, temperature=3.0, seed=3, eos_token_id=(letters.find("g"),)
    )
    chat = generate.Chat(model, params, text, asked, template, room=128, system="be")
    turns, ends = ["hi", "", "gggg", "di", "s", "da"], set()
    for words in turns:
        answer = "".join(chat.say(words))
        whole = template.render(chat.messages[:-1])
        ((want,),) = generate.continued(
            model, params, text, [text.encode(whole)], asked
        )
        ended = bool(want[-1] == letters.find("g"))
        assert text.decode(want).decode() == answer + "g" * ended
        ends.add(ended)
        if told == "as said":
            assert chat.read == len(whole) + len(want)
    assert chat.messages[0] == {"role": "system", "content": "be"}
    assert len(chat.messages) == 1 + 2 * len(turns) and ends == {True, False}
    if told == "otherwise":
        assert chat.read > len(whole) + len(want)


def test_a_turn_that_is_refused_leaves_no_trace():
    model, params = subject(("lstm",), 2)
    source = "{% for m in messages %}{% if m.content == 'bad' %}"
    source += "{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"
    template = interop.ChatTemplate(source, "x", {})
    chat = generate.Chat(model, params, TEXT, Asked(max_new_tokens=3), template)
    with pytest.raises(ConfigError, match="x takes no such conversation: no"):
        list(chat.say("bad"))
    assert "".join(chat.say("good")) and len(chat.messages) == 2


def test_a_chat_ends_with_learned_positions():
    model, _ = language_model(("attention",), 1, position="learned")
    asked = Asked(max_new_tokens=100, seed=1)
    chat = generate.Chat(model, initial(model), TEXT, asked)
    with pytest.raises(ConfigError, match="128 learned positions: begin a new one"):
        for _ in range(3):
            "".join(chat.say("hello"))
    with pytest.raises(ConfigError, match="one answer"):
        generate.Chat(model, {}, TEXT, asked._replace(num_return_sequences=2))
