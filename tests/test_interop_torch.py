"""State dicts of torch's own recurrent layers, in and out."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lm import generate, interop
from lm.errors import ConfigError
from tests.subjects import initial, language_model
from tests.test_interop import TOKENS_BxT, V, near, ours

D = 12
KINDS = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "elman": torch.nn.RNN,
}


class Model(torch.nn.Module):
    """The word-level model of torch's examples."""

    def __init__(self, kind: str, layers: int, tied=False, bias=True, **fields):
        super().__init__()
        self.encoder = torch.nn.Embedding(V, D)
        self.rnn = KINDS[kind](D, D, layers, batch_first=True, **fields)
        self.decoder = torch.nn.Linear(D, V, bias=bias)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.25 * torch.randn(p.shape))
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens_BxT):
        return self.decoder(self.rnn(self.encoder(tokens_BxT))[0])


def saved(path, kind="lstm", layers=2, tied=False, **fields):
    torch.manual_seed(0)
    model = Model(kind, layers, tied, **fields)
    save_file({k: p.clone() for k, p in model.state_dict().items()}, path)
    return model


def logits(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS_BxT)).numpy()


@pytest.mark.parametrize(
    ("kind", "asked", "fields"),
    [
        ("lstm", {"layers": 3}, {}),
        ("lstm", {"layers": 1, "tied": True, "bias": False}, {}),
        ("gru", {"layers": 2, "tied": True}, {}),
        ("elman", {"layers": 2}, {}),
        ("elman", {"layers": 2, "nonlinearity": "relu"}, {"activation": "relu"}),
    ],
)
def test_a_state_dict_computes_the_same_and_goes_back(kind, asked, fields, tmp_path):
    path = tmp_path / "model.safetensors"
    reference = saved(path, kind, **asked)
    want = logits(reference)
    config, model, params, _ = interop.from_torch(path, **fields)
    assert model.tied == asked.get("tied", False)
    assert model.output_bias == asked.get("bias", True)
    near(ours(model, params), want)
    (row,) = generate.continuations(
        model, params, [TOKENS_BxT[0, :5]], 9, generate.Sampling(temperature=0.0)
    )
    text = TOKENS_BxT[:1, :5]
    for token in row:
        with torch.no_grad():
            best = reference(torch.from_numpy(text))[0, -1].argmax()
        assert token == best
        text = np.append(text, [[token]], 1)

    back = tmp_path / "back.safetensors"
    interop.to_torch(back, model, params)
    again = Model(kind, **asked)
    again.load_state_dict(load_file(back))
    near(logits(again), want, 1e-6)
    with pytest.raises(ConfigError, match="is there already"):
        interop.to_torch(back, model, params)


def test_other_names_are_told(tmp_path):
    path = tmp_path / "model.safetensors"
    reference = saved(path)
    tensors = load_file(path)
    renamed = {k.replace("rnn.", "net.lstm."): x for k, x in tensors.items()}
    save_file(renamed, path)
    with pytest.raises(ConfigError, match=r"no matrix rnn.weight_ih_l0.*say by Names"):
        interop.from_torch(path)
    names = interop.Names(rnn="net.lstm")
    _, model, params, _ = interop.from_torch(path, names)
    near(ours(model, params), logits(reference))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bidirectional": True}, "decoder.weight is"),
        ({"bias": False, "rnn": {"bias": False}}, "missing: rnn.bias_hh_l0"),
    ],
)
def test_what_torch_has_and_we_have_not_is_named(fields, words, tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(
        D, D, 2, bidirectional="bidirectional" in fields, **fields.get("rnn", {})
    )
    width = 2 * D if "bidirectional" in fields else D
    parts = {"encoder": torch.nn.Embedding(V, D), "rnn": rnn}
    parts["decoder"] = torch.nn.Linear(width, V)
    save_file(torch.nn.ModuleDict(parts).state_dict(), path)
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        interop.from_torch(path)
    if "bidirectional" in fields:
        assert "surplus: rnn.weight_ih_l0_reverse" in str(error.value)


def test_pickles_and_other_widths_and_models_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(ConfigError, match="a pickle"):
        interop.from_torch(path)
    model = torch.nn.ModuleDict(
        {"encoder": torch.nn.Embedding(V, 6), "rnn": torch.nn.LSTM(6, D)}
    )
    model["decoder"] = torch.nn.Linear(D, V)
    path = tmp_path / "wide.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(ConfigError, match="over an embedding of 6"):
        interop.from_torch(path)
    model, _ = language_model(("attention",), 1)
    with pytest.raises(ConfigError, match="layers of one kind"):
        interop.to_torch(tmp_path / "x", model, initial(model))
