"""Prompts and chat templates as transformers reads them."""

import fnmatch
import io
import json
import re
import sys

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from lm import cli, generate, interop, scores
from lm import model as models_of
from lm.errors import ConfigError
from lm.generate import Asked, decode
from tests.learnt import byte_fallback, byte_level, unigram
from tests.subjects import language_model

KINDS = {
    "byte_level": byte_level,
    "nfc": lambda: byte_level(normalizers.NFC()),
    "begin": lambda: byte_level(begin=True),
    "byte_fallback": byte_fallback,
    "llama": byte_fallback,
    "llama_legacy": byte_fallback,
    "unigram": unigram,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (transformers' tokenizer, the folder that it was read from)."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            PreTrainedTokenizerFast(
                tokenizer_object=KINDS[name](), **marks
            ).save_pretrained(folder)
            if name.startswith("llama"):
                path = folder / "tokenizer_config.json"
                stored = json.loads(path.read_text()) | {
                    "tokenizer_class": "LlamaTokenizer",
                    "legacy": name == "llama_legacy",
                }
                path.write_text(json.dumps(stored))
            made[name] = AutoTokenizer.from_pretrained(folder), folder
        return made[name]

    return make


TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", " ", "  two", "cafe\u0301 \u212b", "a<|user|>b </s>", "<s>a", "▁x", "\ufffd"]
)


@pytest.mark.parametrize("name", KINDS)
@given(text=TEXTS)
@settings(deadline=None, max_examples=150)
def test_prompts_have_transformers_ids_and_their_text_comes_back(saved, name, text):
    reference, folder = saved(name)
    ours = interop.tokenizer_of(folder)
    ids = generate.prompt_ids(ours, text)
    assert ids.tolist() == reference(text).input_ids
    plain = reference(text, add_special_tokens=False).input_ids
    assert ours.encode(text).tolist() == plain
    if ours.tokenizer.unknown in plain:
        return
    said = ours.decode(plain).decode(errors="replace")
    want = reference.decode(plain, clean_up_tokenization_spaces=False)
    assert said == want
    sizes = ours.tokenizer.encode(text.encode()).sizes
    assert sizes.sum() == len(text.encode()) and (sizes >= 0).all()


@pytest.mark.parametrize(("name", "begin"), [("begin", (0,)), ("byte_level", ())])
def test_marks_of_begin_are_the_post_processors(saved, tmp_path, name, begin):
    """Whatever the settings say, as with transformers' class for any tokenizer."""
    _, folder = saved(name)
    stored = json.loads((folder / "tokenizer_config.json").read_text())
    stored |= {"add_bos_token": not begin}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stored))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    ours = interop.tokenizer_of(tmp_path)
    assert ours.begin == begin
    want = AutoTokenizer.from_pretrained(tmp_path)("the").input_ids
    assert generate.prompt_ids(ours, "the").tolist() == want


def test_what_cannot_be_a_prompts_tokenizer_is_said(saved, tmp_path):
    _, folder = saved("byte_level")
    path = tmp_path / "tokenizer.json"
    spec = json.loads((folder / "tokenizer.json").read_text())

    def refused(words):
        with pytest.raises(ConfigError, match=words):
            interop.tokenizer_of(tmp_path)

    path.write_text("{")
    refused("is no tokenizer.json")
    end = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    single = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]
    ending = {"type": "TemplateProcessing", "single": single, "pair": single}
    ending["special_tokens"] = {"</s>": end}
    path.write_text(json.dumps(spec | {"post_processor": ending}))
    refused("puts </s> after a text")
    pieces = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    path.write_text(
        json.dumps(
            spec | {"decoder": pieces, "pre_tokenizer": {"type": "BertPreTokenizer"}}
        )
    )
    refused("gives no text back")


@pytest.fixture(scope="module")
def llama(saved, tmp_path_factory):
    """name of a tokenizer -> (transformers' model and tokenizer, folder)."""

    def make(name):
        reference, folder = saved(name)
        out = tmp_path_factory.mktemp("llama")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(reference),
            hidden_size=24,
            intermediate_size=50,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=0,
            eos_token_id=1,
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(out)
        reference.save_pretrained(out)
        return model, reference, out

    return make


@pytest.mark.parametrize("name", KINDS)
def test_a_prompt_is_continued_as_transformers_does(llama, name, capsys):
    model, reference, folder = llama(name)
    prompt = "the quick brown fox"
    ids = reference(prompt, return_tensors="pt").input_ids
    sizes = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    found = model.generate(ids, **sizes, eos_token_id=None)[0]
    opened = generate.opened(pretrained=str(folder))
    asked = Asked(max_new_tokens=12, do_sample=False)
    before = generate.prompt_ids(opened.text, prompt)
    ((new,),) = generate.continued(*opened[:3], [before], asked)
    assert [*before, *new] == found.tolist()

    want = reference.decode(found[len(opened.text.begin) :])
    argv = ["generate", f"--pretrained={folder}", f"--prompt={prompt}"]
    argv += ["--max_new_tokens=12", "--temperature=0", "--eos_token_id=9999"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    # Where bytes are no UTF-8, tokenizers drops those beside them too.
    assert said.removesuffix("\n") == want or "\ufffd" in want
    assert cli.main([*argv, "--stream"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("name", ["begin", "byte_fallback"])
def test_a_score_is_after_the_mark_of_begin(llama, name):
    model, reference, folder = llama(name)
    text = "the quick brown fox"
    ids = reference(text, return_tensors="pt").input_ids
    with torch.no_grad():
        want = model(ids, labels=ids).loss.item()
    opened = generate.opened(pretrained=str(folder))
    (row,) = scores.of_texts(*opened[:3], [text])
    assert row["tokens"] == ids.shape[1] - 1
    np.testing.assert_allclose(row["nats_per_token"], want, rtol=1e-5)
    nats = row["nats_per_token"] * row["tokens"]
    assert row["bits_per_byte"] == pytest.approx(nats / np.log(2) / len(text))


PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRICKS = """{%- set ns = namespace(seen=false) -%}
{%- for message in messages %}
    {%- if message.role == 'system' and not ns.seen %}
        {%- set ns.seen = true %}
[{{ message.content | trim }}]
        {%- continue %}
    {%- endif %}
    {%- if loop.index0 > 8 %}
        {%- break %}
    {%- endif %}
    {%- if message.role == 'user' %}
{{ {'u': message.content} | tojson }}
    {%- else %}
        {% generation %}
            {{- '<a>' + message.content.split('</think>')[-1] + eos_token }}
        {% endgeneration %}
    {%- endif %}
{% endfor -%}
{% if tools %}{{ raise_exception('no tools') }}{% endif -%}
{% if tools is not none or documents is not none %}{{ tools | tojson }}{% endif -%}
{{ strftime_now('%Y') }} {{ dict(a=1).a }} {{ dict.fromkeys([1]) }} A:"""
SAID = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize("source", [PLAIN, TRICKS])
@given(words=st.lists(SAID, min_size=1, max_size=5), system=st.none() | SAID)
@settings(deadline=None, max_examples=60)
def test_a_template_renders_as_in_transformers(saved, source, words, system):
    reference, _ = saved("byte_level")
    words = words if len(words) % 2 else words[1:]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": w}
        for i, w in enumerate(words)
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    how = {"tokenize": False, "add_generation_prompt": True}
    want = reference.apply_chat_template(messages, chat_template=source, **how)
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    assert interop.ChatTemplate(source, "x", marks).render(messages) == want


def test_where_a_template_is_read(saved, tmp_path):
    reference, folder = saved("byte_level")
    assert interop.template_of(folder) is None
    say = [{"role": "user", "content": "hi"}]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": PLAIN, "bos_token": {"content": "<s>"}})
    )
    assert interop.template_of(tmp_path).render(say) == "<s><|user|>hi<|assistant|>"
    several = [{"name": "tool_use", "template": "x"}]
    settings = lambda found: (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": found})
    )
    settings(several)
    with pytest.raises(ConfigError, match="tool_use, no default"):
        interop.template_of(tmp_path)
    settings([*several, {"name": "default", "template": "d"}])
    assert interop.template_of(tmp_path).render(say) == "d"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert interop.template_of(tmp_path).render(say) == "file"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% if %}", "is no template of Jinja"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set ns = namespace(__init__=1) %}", "a namespace has no __init__"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "a namespace has no _x"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ unknown.field }}", "'unknown' is undefined"),
    ],
)
def test_a_template_that_reaches_too_far_is_refused_by_its_file(source, words):
    with pytest.raises(ConfigError, match=f"^file.*{re.escape(words)}"):
        made = interop.ChatTemplate(source, "file", {})
        made.render([{"role": "user", "content": "x"}])


def test_marks_are_those_that_transformers_takes(saved, tmp_path):
    """special_tokens_map.json is of old files, without added_tokens_decoder."""
    _, folder = saved("byte_level")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}")
    for more in ({}, {"added_tokens_decoder": {}}):
        stored = {"eos_token": "<|user|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(stored | more))
        reference = AutoTokenizer.from_pretrained(tmp_path)
        say = [{"role": "user", "content": "x"}]
        want = reference.apply_chat_template(say, tokenize=False)
        assert interop.template_of(tmp_path).render(say) == want
    assert want == "<|user|>"


def test_files_of_a_template_that_are_none_are_named(tmp_path):
    def refused(words):
        with pytest.raises(ConfigError, match=words):
            interop.template_of(tmp_path)

    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"bos_token": false}')
    refused("bos_token=False is no text")
    settings.write_text('{"chat_template": ["a"]}')
    refused("no default")
    settings.write_text('{"chat_template": 3}')
    refused("chat_template is no text")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    refused("chat_template.jinja is not UTF-8")


def test_a_name_on_the_hub_brings_every_file_that_is_read():
    named = ["chat_template.jinja", "vocab.txt", "tokenizer.model", "merges.txt"]
    named += ["config.json", "model-00001-of-00002.safetensors"]
    for name in named:
        assert any(fnmatch.fnmatch(name, each) for each in interop.folder.WANTED)
    assert not any(fnmatch.fnmatch("model.bin", each) for each in interop.folder.WANTED)


@pytest.mark.parametrize("name", ["byte_fallback", "llama", "unigram", "begin"])
def test_a_chat_reads_the_ids_of_its_transcript(saved, name):
    """No space comes before what is new, of a tokenizer that puts one before a text."""
    reference, folder = saved(name)
    text = interop.tokenizer_of(folder)
    _, config = language_model(("lstm",), 1)
    model = models_of.build(config, text.tokenizer.vocab_size)
    params = jax.jit(model.initial_params)(0)
    template, asked = generate.Template(), Asked(max_new_tokens=1, do_sample=False)
    chat = generate.Chat(model, params, text, asked, template)
    read, extend = [], decode.extend

    def spy(model, params, at, texts):
        read.append(texts[0].tolist())
        return extend(model, params, at, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "extend", spy)
        answer = "".join(chat.say("the quick"))
        whole = template.render(chat.messages[:-1])
        assert read[0] == reference(whole).input_ids
        said = text.encode(whole + answer).tolist()
        "".join(chat.say("fox"))
    whole = template.render(chat.messages[:-1])
    assert said + read[1] == text.encode(whole).tolist()


def test_the_command_takes_the_folders_template(llama, monkeypatch, capsys):
    _, _, folder = llama("byte_level")
    (folder / "chat_template.jinja").write_text(PLAIN)
    lines = ["the quick", "brown fox"]
    how = ["--max_new_tokens=9", "--temperature=0", "--system=Be."]

    def said(*flags):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{n}\n" for n in lines)))
        assert cli.main(["chat", f"--pretrained={folder}", *how, *flags]) == 0
        return capsys.readouterr().out

    def answers(template, **more):
        *opened, ends = generate.opened(pretrained=str(folder))
        asked = Asked(max_new_tokens=9, do_sample=False, eos_token_id=ends, **more)
        chat = generate.Chat(*opened, asked, template, system="Be.")
        return "".join("".join(chat.say(line)) + "\n" for line in lines)

    by_template = said()
    assert by_template == answers(interop.template_of(folder))
    words = generate.Template(user="Q: ")
    assert said("--user=Q: ") == answers(words, stop_strings=("\n",)) != by_template
