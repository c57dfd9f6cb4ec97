"""Pretrained models from text to text: tokenizers, and runs taken to transformers."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    ByteLevelBPETokenizer,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from lm import cli, generate, interop, train
from lm.data.bpe import ALPHABET, ByteLevelBPE
from lm.errors import ConfigError
from lm.generate import Asked
from tests import trained


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """vocab.json and merges.txt, learnt by the package `tokenizers`; it, and where."""
    folder = tmp_path_factory.mktemp("pair")
    learnt = ByteLevelBPETokenizer()
    text = trained.TEXT.decode() + "It's 12 o'clock, naïve café: 漢字 漢字!\n\n  x"
    learnt.train_from_iterator(
        [text] * 9, vocab_size=320, special_tokens=["<|endoftext|>"]
    )
    learnt.save_model(str(folder))
    return learnt, folder


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_gpt2s_pair_of_files_gives_the_ids_of_tokenizers(pair, text):
    learnt, folder = pair
    ours = interop.tokenizer_of(folder)
    ids = ours.encode(text)
    assert ids.tolist() == learnt.encode(text).ids
    assert ours.decode(ids) == text.encode()


def test_a_special_token_of_the_pair_is_one_id(pair):
    learnt, folder = pair
    want = learnt.token_to_id("<|endoftext|>")
    ids = interop.tokenizer_of(folder).encode("a<|endoftext|>b").tolist()
    assert ids.count(want) == 1 and len(ids) == 3


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_says_so(tmp_path):
    with pytest.raises(ConfigError, match="has no tokenizer"):
        interop.tokenizer_of(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b c d\n")
    with pytest.raises(ConfigError, match="are no BPE"):
        interop.tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        interop.tokenizer_of(tmp_path)


def test_a_tokenizer_is_written_with_all_of_a_text_and_its_normal_form():
    """Of a file that cuts and fills texts, and names no decoder."""
    model = Tokenizer(models.BPE(dict(ALPHABET), []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.normalizer = normalizers.NFC()
    model.enable_truncation(4)
    model.enable_padding(length=16)
    spec = json.loads(model.to_str())
    del spec["decoder"]
    ours = ByteLevelBPE(json.dumps(spec))
    back = Tokenizer.from_str(interop.tokenizer.written(ours))
    text = "caf\u00e9 xyz"
    assert back.encode(text).ids == ours.encode(text.encode()).ids.tolist()
    assert back.decode(back.encode("cafe\u0301 xyz").ids) == text


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_run_goes_to_transformers_and_comes_back(tokenizer, tmp_path, capsys):
    """Trained here, written, and continued there: the same text by greedy choice."""
    data = {"tokenizer": tokenizer, "vocab_size": 300}
    model = {"pattern": ("attention",), "depth": 3, "tied": False}
    config = trained.settings(tmp_path, data=data, model=model)
    train.run(config, tmp_path / "run")
    out = tmp_path / "out"
    capsys.readouterr()
    command = ["export", f"--workdir={tmp_path / 'run'}", f"--out={out}"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"{out}: llama, with its tokenizer\n"

    prompt = "the quick"
    ids = AutoTokenizer.from_pretrained(out)(prompt, return_tensors="pt").input_ids
    reference = AutoModelForCausalLM.from_pretrained(out)
    found = reference.generate(ids, do_sample=False, max_new_tokens=20)
    want = AutoTokenizer.from_pretrained(out).decode(found[0])
    assert want.startswith(prompt) and len(want) > len(prompt)

    asked = Asked(max_new_tokens=20, do_sample=False)
    opened = generate.opened(tmp_path / "run")
    assert generate.generate(*opened[:3], [prompt], asked) == [want]
    command = ["generate", f"--pretrained={out}", f"--prompt={prompt}"]
    assert cli.main([*command, "--max_new_tokens=20", "--temperature=0"]) == 0
    assert capsys.readouterr().out == f"{want}\n"


def test_what_has_no_tokenizer_there_is_written_without_one(tmp_path, capsys):
    config = trained.settings(
        tmp_path, data={"tokenizer": "characters"}, model={"pattern": ("attention",)}
    )
    train.run(config, tmp_path / "run")
    capsys.readouterr()
    out = tmp_path / "out"
    assert cli.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={out}"]) == 0
    assert "without a tokenizer" in capsys.readouterr().out
    assert not (out / "tokenizer.json").exists()
    interop.from_pretrained(out)


def test_a_tokenizer_of_another_model_is_refused(pair, tmp_path):
    _, folder = pair
    config = GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ConfigError, match="not of one checkpoint"):
        generate.opened(pretrained=str(tmp_path))


def test_several_prompts_of_a_pretrained_model_equal_each_alone(pair, tmp_path):
    learnt, folder = pair
    vocabulary = learnt.get_vocab_size()
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=16, n_layer=2, n_head=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    opened = generate.opened(pretrained=str(tmp_path))
    asked = Asked(max_new_tokens=9, do_sample=False)
    run = lambda prompts: generate.generate(*opened[:3], prompts, asked)
    prompts = ["the", "nine stitches in time"]
    assert run(prompts) == [*run(prompts[:1]), *run(prompts[1:])]
