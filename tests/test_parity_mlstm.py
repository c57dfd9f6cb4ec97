"""The mLSTM against xLSTM-7B's layer, and that of figure 10 against its equations."""

import numpy as np
import pytest
import torch
from transformers import xLSTMConfig
from transformers.models.xlstm import modeling_xlstm as xlstm

from tests.oracles import B, D, T, compare, compare_numpy, filled
from tests.subjects import values

H, K, V = 2, 4, 8


def layer(dtype: str, i_bias: float, chunk: int):
    """xLSTM-7B's layer in a dtype, and its parameters.

    Tokens beyond whole chunks are single steps, whose state is in float32.
    """
    config = xLSTMConfig(
        hidden_size=D,
        num_heads=H,
        num_hidden_layers=1,
        chunk_size=chunk,
        norm_reduction_force_float32=dtype == "float32",
    )
    module = xlstm.xLSTMLayer(config).to(getattr(torch, dtype))
    named = filled(module)
    with torch.no_grad():
        named["q.weight"].mul_(4)  # |n . q| on either side of exp(-m)
        named["fgate_preact.bias"].add_(2)
        named["igate_preact.bias"].add_(i_bias)
    return module, named


def ours(p):
    dense = lambda name: {"kernel": p[f"{name}.weight"].T}
    gates = lambda part: [p[f"{gate}gate_preact.{part}"] for gate in "if"]
    return {
        **{name: dense(name) for name in "qkv"},
        "output_gate": dense("ogate_preact"),
        "output": dense("out_proj"),
        "gates": {"kernel": np.concatenate(gates("weight")).T},
        "gates_bias": np.concatenate(gates("bias")),
        "norm": {"scale": p["multihead_norm.weight"].reshape(H, V)},
    }


FIELDS = {"heads": H, "chunk": 4}


@pytest.mark.parametrize("i_bias", [0, -4])
def test_mlstm_is_the_layer_of_xlstm_7b(i_bias):
    """Within what eps allows: their m can be negative, and ours not."""
    module, named = layer("float32", i_bias, chunk=4)
    reference = lambda x: module(x)[:1]
    compare("mlstm", FIELDS, reference, named, ours, tolerance=5e-5)


def test_mlstm_goes_on_from_a_state_as_xlstm_7b_does():
    """In float64, with input gates that keep their m positive, as ours is."""
    module, named = layer("float64", 3, chunk=T)

    def reference(x, C, m, n):
        y, (C, n, m) = module(x, (C, n, m[..., None]))
        return y, C, m[..., 0], n

    state = {
        "C": values(B, H, K, V, seed=2),
        "n": values(B, H, K, seed=3),
        "m": np.abs(values(B, H, seed=4)),
    }
    compare("mlstm", FIELDS, reference, named, ours, state, tolerance=1e-9)


def figure_10(p, x_BxTxD):
    """A token at a time: arXiv 2405.04517, eq. 19-27 inside its figure 10."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    padded = np.pad(x_BxTxD, ((0, 0), (3, 0), (0, 0)))
    conv = sum(p["conv_kernel"][w] * padded[:, w : w + T] for w in range(4))
    conv += p["conv_bias"]
    conv *= sigmoid(conv)
    matrix = lambda kernel: np.block(
        [[w if i == j else 0 * w for j in range(D // 4)] for i, w in enumerate(kernel)]
    )
    q, k = (conv @ matrix(p[f"{name}_kernel"]) for name in "qk")
    v = x_BxTxD @ matrix(p["v_kernel"])
    gates = np.concatenate([q, k, v], -1) @ p["gates"]["kernel"] + p["gates_bias"]
    i, log_f = gates[..., :H], np.log(sigmoid(gates[..., H:]))
    q, k, v = (z.reshape(B, T, H, V) for z in (q / V**0.5, k, v))
    C, n, m, outputs = np.zeros((B, H, V, V)), np.zeros((B, H, V)), np.zeros((B, H)), []
    for t in range(T):
        new = np.maximum(log_f[:, t] + m, i[:, t])
        new = np.maximum(new, 0)  # as in ours, for the same effect of eps
        f, m = np.exp(log_f[:, t] + m - new)[..., None], new
        key = np.exp(i[:, t] - m)[..., None] * k[:, t]
        C = f[..., None] * C + v[:, t, :, :, None] * key[:, :, None]
        n = f * n + key
        size = np.maximum(np.abs(np.sum(n * q[:, t], -1)), np.exp(-m)) + 1e-6
        h = np.einsum("bhvk,bhk->bhv", C, q[:, t]) / size[..., None]
        h -= h.mean(-1, keepdims=True)
        h /= np.sqrt(np.mean(h**2, -1, keepdims=True) + 1e-5)
        outputs.append((h * p["norm"]["scale"]).reshape(B, D))
    return np.stack(outputs, 1) + p["skip_scale"] * conv


def test_mlstm_with_a_convolution_is_figure_10():
    compare_numpy("mlstm", FIELDS | {"projections": "conv"}, figure_10)


PARITY = {
    "mlstm": (
        "transformers: xLSTM-7B; NumPy transcription",
        (
            test_mlstm_is_the_layer_of_xlstm_7b,
            test_mlstm_goes_on_from_a_state_as_xlstm_7b_does,
            test_mlstm_with_a_convolution_is_figure_10,
        ),
    ),
}
