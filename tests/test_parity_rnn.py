"""Nonlinear and diagonal recurrences against torch.nn, transformers and others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from minGRU_pytorch.minGRU import minGRU
from minGRU_pytorch.minLSTM import minLSTM
from transformers import RecurrentGemmaConfig
from transformers.models.recurrent_gemma import modeling_recurrent_gemma as griffin

from lm import sequence
from lm.mixers import MIXERS
from tests.oracles import TOLERANCE, B, D, T, compare, filled, naive
from tests.subjects import values


@pytest.mark.parametrize("hidden", [D, 20])
def test_lstm_is_torch_lstm(hidden):
    module = torch.nn.LSTM(D, hidden, batch_first=True)
    head = torch.nn.Linear(hidden, D, bias=False)
    named = filled(torch.nn.ModuleDict({"lstm": module, "head": head}))
    with torch.no_grad():
        named["lstm.bias_hh_l0"].zero_()  # torch adds two biases; one is ours

    def reference(x, c, h):
        y, (h, c) = module(x, (h[None], c[None]))
        return (y if hidden == D else head(y)), c[0], h[0]

    def ours(p):
        params = {
            "input": {"kernel": p["lstm.weight_ih_l0"].T},
            "recurrent_kernel": p["lstm.weight_hh_l0"].T,
            "bias": p["lstm.bias_ih_l0"],
        }
        output = {"output": {"kernel": p["head.weight"].T}} if hidden != D else {}
        return params | output

    if hidden == D:
        named = {k: p for k, p in named.items() if k != "head.weight"}
    state = (values(B, hidden, seed=2), values(B, hidden, seed=3))
    compare("lstm", {"hidden": hidden}, reference, named, ours, state)


def test_gru_is_torch_gru():
    module = torch.nn.GRU(D, D, batch_first=True)
    named = filled(module)
    with torch.no_grad():
        named["bias_hh_l0"][: 2 * D].zero_()

    def reference(x, h):
        y, h = module(x, h[None])
        return y, h[0]

    def ours(p):
        return {
            "input": {"kernel": p["weight_ih_l0"].T},
            "recurrent_kernel": p["weight_hh_l0"].T,
            "bias": p["bias_ih_l0"],
            "candidate_bias": p["bias_hh_l0"][2 * D :],
        }

    compare("gru", {}, reference, named, ours, values(B, D, seed=2))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [D, 20])
def test_elman_is_torch_rnn(activation, hidden):
    rnn = torch.nn.RNN(D, hidden, batch_first=True, nonlinearity=activation)
    head = torch.nn.Linear(hidden, D, bias=False)
    parts = {"rnn": rnn} | ({"head": head} if hidden != D else {})
    named = filled(torch.nn.ModuleDict(parts))
    with torch.no_grad():
        named["rnn.bias_hh_l0"].zero_()

    def reference(x, h):
        y, h = rnn(x, h[None])
        return (y if hidden == D else head(y)), h[0]

    def ours(p):
        params = {
            "input": {"kernel": p["rnn.weight_ih_l0"].T},
            "recurrent_kernel": p["rnn.weight_hh_l0"].T,
            "bias": p["rnn.bias_ih_l0"],
        }
        output = {"output": {"kernel": p["head.weight"].T}} if hidden != D else {}
        return params | output

    fields = {"hidden": hidden, "activation": activation}
    compare("elman", fields, reference, named, ours, values(B, hidden, seed=2))


def min_rnn(kind, module, expand, state=None):
    """Compares with the parallel form in log space, which takes positive states."""
    rnn = module(D, expand)
    first = "to_hidden_and_gate" if kind == "mingru" else "to_hidden_and_f_i_gate"

    def reference(x, *state):
        if not state:
            return (rnn(x),)
        y, last = rnn(x, state[0][:, None], return_next_prev_hidden=True)
        return y, last[:, 0]

    def ours(p):
        output = {"output": {"kernel": p["to_out.weight"].T}} if expand != 1 else {}
        return {"input": {"kernel": p[f"{first}.weight"].T}} | output

    compare(kind, {"expand": expand}, reference, filled(rnn), ours, state)


@pytest.mark.parametrize("expand", [1, 1.5])
def test_mingru_is_its_parallel_form_in_log_space(expand):
    min_rnn("mingru", minGRU, expand)
    start = np.abs(values(B, int(D * expand), seed=2))
    min_rnn("mingru", minGRU, expand, start)


@pytest.mark.parametrize("expand", [1, 1.5])
def test_minlstm_is_its_parallel_form_in_log_space(expand):
    # From an empty state: the module applies g again to a state that it is given.
    min_rnn("minlstm", minLSTM, expand)


def hgrn(N: int):
    """(parameters by name, ours of them, reference (x, h, b) -> (y, h)) in torch."""
    parts = {name: torch.nn.Linear(D, N, bias=False) for name in ("i", "f", "g")}
    parts |= {"norm": torch.nn.RMSNorm(N, 1e-5), "o": torch.nn.Linear(N, D, False)}
    named = filled(torch.nn.ModuleDict(parts))
    recurrence = naive("hgrn").naive_recurrent_hgrn

    def reference(x, h, bound):
        f = bound + (1 - bound) * parts["f"](x).sigmoid()
        inputs = torch.nn.functional.silu(parts["i"](x)) * (1 - f)
        h, last = recurrence(inputs, f.log(), h, output_final_state=True)
        gate = torch.nn.functional.silu(parts["g"](x))
        return parts["o"](parts["norm"](h) * gate), last

    def ours(p):
        dense = lambda name: {"kernel": p[f"{name}.weight"].T}
        return {
            "input": dense("i"),
            "forget": dense("f"),
            "gate": dense("g"),
            "output": dense("o"),
            "norm": {"scale": p["norm.weight"]},
        }

    return named, ours, reference


@pytest.mark.parametrize("layer", [0, 2])
def test_hgrn_is_fla_hgrn_at_the_bounds_that_it_is_born_with(layer):
    expand, layers = 1.25, 4
    N = int(D * expand)
    named, ours, reference = hgrn(N)
    born = lambda x, h: reference(x, h, torch.tensor(layer / layers))
    fields, h = {"expand": expand}, values(B, N, seed=2)
    compare("hgrn", fields, born, named, ours, h, layers=layers, layer=layer)


def test_hgrn_learns_the_lower_bounds_that_all_layers_share():
    layers, layer = 4, 2
    named, ours, reference = hgrn(D)
    x, weights = (values(B, T, D, seed=i) for i in (1, 9))
    h = values(B, D, seed=2)
    logits = torch.tensor(values(layers, D, seed=5), requires_grad=True)
    shares = logits.softmax(0)
    bound = (shares.cumsum(0) - shares[0])[layer]
    want, _ = reference(torch.tensor(x), torch.tensor(h), bound)
    (want * torch.tensor(weights)).sum().backward()

    mixer = MIXERS["hgrn"](D, layers, jnp.float32)
    params = ours({name: p.detach().numpy() for name, p in named.items()})
    seq = sequence.full(B, T, start=1)._replace(layer=jnp.int32(layer))

    @jax.jit
    def run(logits):
        carry = mixer.shared(lambda name, init, shape: logits.reshape(shape))
        return mixer.apply({"params": params}, x, seq, h, carry)[0]

    got, pull = jax.vjp(run, logits.detach().numpy())
    want, slope = want.detach().numpy(), logits.grad.numpy()
    np.testing.assert_allclose(got, want, 0, TOLERANCE * np.abs(want).max())
    slope_got = pull(weights)[0]
    np.testing.assert_allclose(slope_got, slope, 0, TOLERANCE * np.abs(slope).max())


def test_rglru_is_the_recurrent_block_of_recurrentgemma():
    config = RecurrentGemmaConfig(hidden_size=D, lru_width=D, num_attention_heads=2)
    module = griffin.RecurrentGemmaRecurrentBlock(config, layer_idx=0)
    named = filled(module)
    with torch.no_grad():
        named["rg_lru.recurrent_param"].sub_(2)  # decays of about 0.6
    at = torch.arange(T)[None].expand(B, T)
    reference = lambda x: module(x, at, None, use_cache=False)[:1]

    def ours(p):
        dense = lambda n: {"kernel": p[f"{n}.weight"].T, "bias": p[f"{n}.bias"]}
        return {
            "gate": dense("linear_y"),
            "input": dense("linear_x"),
            "output": dense("linear_out"),
            "conv_kernel": p["conv_1d.weight"][:, 0].T,
            "conv_bias": p["conv_1d.bias"],
            "decay": p["rg_lru.recurrent_param"],
            "input_gate_kernel": p["rg_lru.input_gate_weight"],
            "input_gate_bias": p["rg_lru.input_gate_bias"].ravel(),
            "recurrence_gate_kernel": p["rg_lru.recurrent_gate_weight"],
            "recurrence_gate_bias": p["rg_lru.recurrent_gate_bias"].ravel(),
        }

    compare("rglru", {"heads": 2}, reference, named, ours)


PARITY = {
    "elman": ("torch.nn.RNN", (test_elman_is_torch_rnn,)),
    "hgrn": (
        "fla-core: hgrn",
        (
            test_hgrn_is_fla_hgrn_at_the_bounds_that_it_is_born_with,
            test_hgrn_learns_the_lower_bounds_that_all_layers_share,
        ),
    ),
    "mingru": (
        "minGRU-pytorch, in log space",
        (test_mingru_is_its_parallel_form_in_log_space,),
    ),
    "minlstm": (
        "minGRU-pytorch, in log space",
        (test_minlstm_is_its_parallel_form_in_log_space,),
    ),
    "gru": ("torch.nn.GRU", (test_gru_is_torch_gru,)),
    "lstm": ("torch.nn.LSTM", (test_lstm_is_torch_lstm,)),
    "rglru": (
        "transformers: RecurrentGemma",
        (test_rglru_is_the_recurrent_block_of_recurrentgemma,),
    ),
}
