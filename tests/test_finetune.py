"""A pretrained model trained further: what a run starts from, and what comes out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lm import cli, generate, interop, scores, sequence, train
from lm import config as configs
from lm.data.tokenizers import Bytes
from lm.errors import ConfigError
from tests import runs, trained

SIZES = {"vocab_size": 262, "bos_token_id": 0, "eos_token_id": 0}  # bytes, and six more
GPT2 = GPT2Config(**SIZES, n_positions=64, n_embd=24, n_head=3, n_layer=2)
LLAMA = LlamaConfig(
    **SIZES,
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=3,
    num_hidden_layers=2,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{family: folder of a random model with a tokenizer of bytes}."""
    made = {}
    for config in (GPT2, LLAMA):
        folder = tmp_path_factory.mktemp(config.model_type)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(interop.tokenizer.written(Bytes()))
        made[config.model_type] = folder
    return made


def config(folder, tmp_path, **changes):
    (tmp_path / "text.txt").write_bytes(trained.TEXT * 40)
    settings = {
        "data.corpus": "text",
        "data.path": str(tmp_path / "text.txt"),
        "data.cache": str(tmp_path / "cache"),
        "data.context": 32,
        "train.batch_tokens": 128,
        "train.duration": "2 steps",
        "eval.every": "100%",
        "eval.rows": 4,
        "eval.stream_chunk": 16,
        "run.sample_tokens": 4,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    spec = f"{runs.ROOT / 'configs/pretrained.py'}:{folder}"
    return configs.resolve(configs.load(spec, settings))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_run_starts_from_the_pretrained_model(folders, family, tmp_path):
    still = config(folders[family], tmp_path, optim__lr=1e-30)
    train.run(still, tmp_path / "run")
    mine = generate.opened(tmp_path / "run")
    theirs = generate.opened(pretrained=str(folders[family]))
    assert mine.model.vocab_size == 256 and theirs.model.vocab_size == 262
    ids = mine.text.encode(trained.TEXT[:30])
    (ours,) = scores.log_probs(mine.model, mine.params, [ids])
    logits = _logits(theirs, ids)[:, :256]
    want = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(want[:-1], ids[1:, None], -1)[:, 0]
    np.testing.assert_allclose(ours.log_p_N, want, atol=1e-4)


def _logits(opened, ids):
    state = opened.model.initial_state(1, 0)
    seq = sequence.full(1, len(ids))
    found, _ = opened.model.apply({"params": opened.params}, ids[None], seq, state)
    return np.asarray(found[0], np.float64)


def test_what_was_tuned_is_better_and_goes_back_to_transformers(folders, tmp_path):
    tuned = config(
        folders["llama"], tmp_path, train__duration="40 steps", optim__lr=3e-3
    )
    result = train.run(tuned, tmp_path / "run")
    still = config(folders["llama"], tmp_path, optim__lr=1e-30)
    before = train.run(still, tmp_path / "still")
    figure = lambda r: r["test"]["window"]["bits_per_byte"]
    assert figure(result) < figure(before) - 1
    out = tmp_path / "out"
    flags = ["export", f"--workdir={tmp_path / 'run'}", f"--out={out}"]
    assert cli.main(flags) == 0
    reference = AutoModelForCausalLM.from_pretrained(out).eval()
    opened = generate.opened(tmp_path / "run")
    ids = opened.text.encode("the quick brown")
    with torch.no_grad():
        want = reference(torch.from_numpy(ids[None].astype(np.int64))).logits[0]
    np.testing.assert_allclose(_logits(opened, ids), want.numpy(), atol=1e-3)


def test_the_tokenizer_is_one_that_leaves_texts_as_they_are(folders, tmp_path):
    """As of Llama 2, whose two files are of one vocabulary."""
    chosen = lambda: Path(interop.config_of(tmp_path).data.tokenizer_path).name
    shutil.copytree(folders["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    assert chosen() == "tokenizer.json"
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}}
    path.write_text(json.dumps(spec))
    assert chosen() == "tokenizer.model"
    (tmp_path / "tokenizer.model").unlink()
    assert chosen() == "tokenizer.json"  # the data says what is wrong with it


def test_a_start_that_does_not_fit_is_refused_by_name(folders, tmp_path):
    folder = folders["gpt2"]
    for changes, words in (
        ({"model__mlp": "gelu_exact"}, "model.mlp differ; train it with"),
        ({"model__bias": False}, "model.bias differ"),
        ({"data__context": 128, "eval__stream_chunk": 16}, r"\[64, 24\], the run's"),
    ):
        wrong = config(folder, tmp_path, **changes)
        with pytest.raises(ConfigError, match=words):
            train.run(wrong, tmp_path / words[:9])
    bare = tmp_path / "bare"
    bare.mkdir()
    stored = json.loads((folder / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="neither tokenizer.json nor"):
        config(bare, tmp_path)
    (bare / "config.json").write_text(json.dumps(stored | {"scale_attn_weights": 0}))
    with pytest.raises(ConfigError, match="scale_attn_weights"):
        config(bare, tmp_path)
