"""Prompts and chat templates as transformers reads them."""

import io
import json
import re
import sys

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from lm import cli, generate, interop, scores
from lm.errors import ConfigError
from lm.generate import Asked
from tests import trained

WORDS = trained.TEXT.decode() + "It's 12 o'clock, naïve café: 漢字 漢字!\n\n  x"
MARKS = ["<s>", "</s>", "<unk>", "<|user|>"]


def byte_level(normalizer=None, begin=False):
    """As of Qwen 3 and Llama 3."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=MARKS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    return _learnt(made, trainer, begin)


def byte_fallback(begin=True):
    """As of Llama 2, Mistral and Gemma: pieces with their spaces, else bytes."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=140, special_tokens=MARKS, show_progress=False
    )
    spec = json.loads(_learnt(made, trainer, begin).to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {f"<0x{i:02X}>": len(vocabulary) + i for i in range(256)}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def unigram():
    """As of T5 and XLNet: pieces, a space before the text, no bytes."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=MARKS, unk_token="<unk>", show_progress=False
    )
    return _learnt(made, trainer, False)


def _learnt(made, trainer, begin):
    made.train_from_iterator([WORDS] * 9, trainer)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return made


KINDS = {
    "byte_level": byte_level,
    "nfc": lambda: byte_level(normalizers.NFC()),
    "begin": lambda: byte_level(begin=True),
    "byte_fallback": byte_fallback,
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
    assert said.removesuffix("\n") == want or name == "byte_fallback"
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
{{ strftime_now('%Y') }} {{ dict(a=1).a }} A:"""
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
