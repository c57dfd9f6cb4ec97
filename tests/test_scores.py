"""log P of texts: transformers' loss and its strided perplexity are the references."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from lm import cli, generate, interop, scores
from lm.data.tokenizers import Bytes
from lm.errors import ConfigError
from tests import trained
from tests.subjects import initial, language_model, tokens
from tests.test_decoding import prompts
from tests.test_generate import subject

TEXT = (trained.TEXT * 20)[:10_000].decode()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """(the model of transformers, its folder) over bytes, 128 positions."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "n_positions": 128, "n_embd": 24, "n_head": 3}
    config = GPT2Config(**sizes, n_layer=2, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(interop.tokenizer.written(Bytes()))
    return model, folder


def nats(reference, ids, new):
    """transformers' loss of the last `new` tokens, in sum."""
    ids = torch.from_numpy(np.asarray(ids, np.int64))[None]
    labels = ids.clone()
    labels[:, :-new] = -100
    with torch.no_grad():
        loss = reference(ids, labels=labels).loss.item()
    return loss * min(new, ids.shape[1] - 1)


@pytest.mark.parametrize(("context", "stride"), [(128, 64), (128, 127), (50, 7)])
def test_strided_perplexity_of_10_kb_is_that_of_transformers(gpt2, context, stride):
    reference, folder = gpt2
    model, params, text, _ = generate.opened(pretrained=str(folder))
    (row,) = scores.of_texts(model, params, text, [TEXT], context, stride)
    ids, total, done = np.frombuffer(TEXT.encode(), np.uint8), 0.0, 1
    for start in range(0, len(ids), stride):
        stop = min(start + context, len(ids))
        total += nats(reference, ids[start:stop], stop - done)
        done = stop
        if stop == len(ids):
            break
    assert row["tokens"] == row["bytes"] == len(ids) - 1
    np.testing.assert_allclose(
        row["perplexity"], math.exp(total / (len(ids) - 1)), rtol=1e-5
    )
    np.testing.assert_allclose(row["log_p"], -total, rtol=1e-5)


def test_a_whole_text_has_the_loss_of_transformers(gpt2):
    reference, folder = gpt2
    model, params, text, _ = generate.opened(pretrained=str(folder))
    texts = [TEXT[:100], TEXT[50:52], "naïve"]
    for row, words in zip(
        scores.of_texts(model, params, text, texts), texts, strict=True
    ):
        raw = words.encode()
        want = nats(reference, np.frombuffer(raw, np.uint8), len(raw))
        np.testing.assert_allclose(-row["log_p"], want, rtol=1e-5)
        assert row["bits_per_byte"] == pytest.approx(
            want / (len(raw) - 1) / math.log(2), rel=1e-5
        )
        assert sum(p for _, p in row["pieces"]) == pytest.approx(row["log_p"])


@pytest.mark.parametrize("pattern", [("lstm",), ("attention",), ("mamba2", "window")])
def test_a_text_among_others_is_scored_as_alone(pattern):
    model, params = subject(pattern)
    texts = [tokens(1, n, seed=n)[0] for n in (9, 1, 70, 2, 33, 4, 5, 6, 7, 8)]
    for text, found in zip(texts, scores.log_probs(model, params, texts), strict=True):
        (alone,) = scores.log_probs(model, params, [text])
        assert found.log_p_N.shape == (len(text) - 1,)
        np.testing.assert_allclose(found.log_p_N, alone.log_p_N, atol=2e-5)
        np.testing.assert_array_equal(found.likeliest_N, alone.likeliest_N)


def test_greedy_continuations_are_the_likeliest_tokens():
    model, params = subject(("lstm", "attention"))
    for prompt in prompts():
        prompt = prompt % model.vocab_size
        how = generate.Sampling(temperature=0.0)
        (new,) = generate.continuations(model, params, [prompt], 6, how)
        whole = np.concatenate([prompt, new])
        (found,) = scores.log_probs(model, params, [whole])
        assert found.likeliest_N[-6:].all()
        whole[-1] = (whole[-1] + 1) % model.vocab_size
        (found,) = scores.log_probs(model, params, [whole])
        assert not found.likeliest_N[-1]


def test_strides_give_each_token_once_and_more_of_what_is_before():
    model, params = subject(("attention",))
    (text,) = tokens(1, 41, seed=1)
    (whole,) = scores.log_probs(model, params, [text])
    for stride in range(1, 16):
        found = scores.strided(model, params, text, 16, stride)
        assert found.log_p_N.shape == (40,)
        np.testing.assert_allclose(found.log_p_N[:15], whole.log_p_N[:15], atol=2e-5)
    for context in (41, 99):
        found = scores.strided(model, params, text, context, 3)
        np.testing.assert_allclose(found.log_p_N, whole.log_p_N, atol=2e-5)


def test_what_cannot_be_scored_says_why(gpt2):
    _, folder = gpt2
    model, params, text, _ = generate.opened(pretrained=str(folder))
    run = lambda *asked: scores.of_texts(model, params, text, *asked)
    with pytest.raises(ConfigError, match="has 1 tokens, and the first"):
        run(["ab", "x"])
    with pytest.raises(ConfigError, match="128 learned positions: score it in windows"):
        run([TEXT])
    with pytest.raises(ConfigError, match="--stride=16 must be .* below --context=16"):
        run([TEXT], 16, 16)
    with pytest.raises(ConfigError, match="--context=130 passes"):
        run([TEXT], 130, 2)


def test_the_command_prints_figures_and_tokens(gpt2, tmp_path, capsys):
    _, folder = gpt2
    file = tmp_path / "text"
    file.write_text(TEXT)
    command = ["score", f"--pretrained={folder}"]
    windows = ["--context=128", "--stride=100"]
    assert cli.main([*command, f"--file={file}", *windows, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "".join(piece for piece, _ in row["pieces"]) == TEXT[1:]
    assert cli.main([*command, "--text=the quick", "--text=brown"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["tokens", "log_p"] and first.endswith("'the quick'")
    assert [line.split()[0] for line in (first, second)] == ["8", "4"]
    for flags, words in (
        ([], "nothing to score"),
        (["--text=ab", "--stride=3"], "--stride=3 must be"),
        (["--text=ab", "--context=1"], "--context=1 must be"),
        ([f"--file={tmp_path / 'no'}"], "cannot be read"),
    ):
        assert cli.main([*command, *flags]) == 2
        assert words in capsys.readouterr().err


def test_learned_positions_may_be_filled_to_the_last():
    model, _ = language_model(("attention",), 1, position="learned")
    params = initial(model)
    (full,) = tokens(1, model.positions + 1)
    (found,) = scores.log_probs(model, params, [full])
    assert found.log_p_N.shape == (model.positions,)
