"""Outputs and every gradient against torch.nn and Hugging Face classes, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, RecurrentGemmaConfig
from transformers.masking_utils import (
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.recurrent_gemma import modeling_recurrent_gemma as griffin

from lm import sequence
from lm.mixers import MIXERS
from tests.subjects import values

torch.set_num_threads(1)
B, T, D = 2, 13, 16


def filled(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a module, by name, after drawing them all anew."""
    named = dict(module.named_parameters())
    with torch.no_grad():
        for i, p in enumerate(named.values()):
            p.copy_(torch.from_numpy(0.3 * values(*p.shape, seed=100 + i)))
    return named


def compare(kind: str, fields: dict, reference, named, ours, state=None) -> None:
    """y, the last state and all gradients agree within 1e-5 of the largest.

    Args:
      reference: (x, *leaves of the state) -> (y, *leaves of the last state), in torch.
      named: torch parameters; `ours` makes our tree of a dict of arrays, linearly, so
        that it maps their gradients too.
      state: our initial state, where the reference takes one.
    """
    mixer = MIXERS[kind](D, 1, jnp.float32, **fields)
    x_BxTxD = values(B, T, D, seed=1)
    given, form = jax.tree.flatten(state)
    start = mixer.initial_state(B, 0) if state is None else state

    inputs = [
        torch.tensor(np.asarray(a), requires_grad=True) for a in (x_BxTxD, *given)
    ]
    outputs = reference(*inputs)
    project = lambda xs: sum((x * values(*x.shape, seed=9)).sum() for x in xs)
    weigh = lambda x: x * torch.from_numpy(values(*x.shape, seed=9))
    sum(weigh(x).sum() for x in outputs).backward()
    array = lambda tensors: {k: t.detach().numpy() for k, t in tensors.items()}
    params = ours(array(named))
    want_params = ours(array({k: p.grad for k, p in named.items()}))

    @jax.jit
    def run(params, x_BxTxD, given):
        start_ = jax.tree.unflatten(form, given) if given else start
        variables, seq = {"params": params}, sequence.full(B, T, start=int(bool(given)))
        y_BxTxD, state, _ = mixer.apply(variables, x_BxTxD, seq, start_, {})
        outputs = (y_BxTxD, *(jax.tree.leaves(state) if given else ()))
        return project(outputs), outputs

    grad = jax.value_and_grad(run, (0, 1, 2), has_aux=True)
    (_, got), (got_params, *got_inputs) = grad(params, x_BxTxD, given)
    want = [x.detach().numpy() for x in outputs]
    want_inputs = [x.grad.numpy() for x in inputs]
    _close(list(got), want)
    _close(got_params, want_params)
    _close(jax.tree.leaves(got_inputs), want_inputs)


def _close(got, want) -> None:
    def check(got, want):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())

    jax.tree.map(check, got, want)


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


def _attention(p: dict) -> dict:
    qkv = [p[f"{name}_proj.weight"].T for name in "qkv"]
    return {
        "qkv": {"kernel": np.concatenate(qkv, 1)},
        "output": {"kernel": p["o_proj.weight"].T},
    }


def _rotary(kind, rotary, mask, config):
    """The attention class `kind` as a function of x alone, and its parameters."""
    module = kind(config, layer_idx=0)
    at = torch.arange(T)[None].expand(B, T)

    def reference(x):
        bias = mask(config, x, None, None, at)
        cos_sin = rotary(config)(x, at)
        return module(x, position_embeddings=cos_sin, attention_mask=bias)[:1]

    return reference, filled(module)


SIZES = {"hidden_size": D, "num_attention_heads": 4, "attn_implementation": "eager"}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_llama_attention(kv_heads):
    config = LlamaConfig(**SIZES, num_key_value_heads=kv_heads)
    kinds = (llama.LlamaAttention, llama.LlamaRotaryEmbedding, create_causal_mask)
    reference, named = _rotary(*kinds, config)
    compare("attention", {"kv_heads": kv_heads}, reference, named, _attention)


@pytest.mark.parametrize("window", [1, 4, 12])
def test_a_window_is_mistral_attention(window):
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window)
    kinds = (mistral.MistralAttention, mistral.MistralRotaryEmbedding)
    reference, named = _rotary(*kinds, create_sliding_window_causal_mask, config)
    fields = {"kv_heads": 2, "window": window}
    compare("attention", fields, reference, named, _attention)


def test_attention_is_gpt2_attention():
    config = GPT2Config(n_embd=D, n_head=4, attn_implementation="eager")
    module = GPT2Attention(config, layer_idx=0).eval()

    def reference(x):
        mask = create_causal_mask(config, x, None, None)
        return module(x, attention_mask=mask)[:1]

    def ours(p):
        names = {"qkv": "c_attn", "output": "c_proj"}
        pair = lambda name: {"kernel": p[f"{name}.weight"], "bias": p[f"{name}.bias"]}
        return {own: pair(name) for own, name in names.items()}

    fields = {"position": "none", "bias": True}
    compare("attention", fields, reference, filled(module), ours)


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


# Every registered mixer has an entry; the contract asks for it.
PARITY = {
    "attention": (
        test_attention_is_llama_attention,
        test_attention_is_gpt2_attention,
        test_a_window_is_mistral_attention,
    ),
    "gru": (test_gru_is_torch_gru,),
    "lstm": (test_lstm_is_torch_lstm,),
    "rglru": (test_rglru_is_the_recurrent_block_of_recurrentgemma,),
}
