"""Selective state spaces against transformers and mambapy, or their equations."""

import numpy as np
import pytest
from mambapy.mamba import MambaBlock
from mambapy.mamba import MambaConfig as BlockConfig
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from tests.oracles import D, compare, compare_numpy, filled


def mamba(p):
    """Our tree of the parameters of either reference: they share their names."""
    return {
        "input": {"kernel": p["in_proj.weight"].T},
        "conv_kernel": p["conv1d.weight"][:, 0].T,
        "conv_bias": p["conv1d.bias"],
        "selection": {"kernel": p["x_proj.weight"].T},
        "dt": {"kernel": p["dt_proj.weight"].T},
        "dt_bias": p["dt_proj.bias"],
        "A_log": p["A_log"],
        "D": p["D"],
        "output": {"kernel": p["out_proj.weight"].T},
    }


@pytest.mark.parametrize("chunk", [None, 4])
def test_mamba_is_the_mixer_of_transformers(chunk):
    config = MambaConfig(hidden_size=D, state_size=5, conv_kernel=3, time_step_rank=2)
    module = MambaMixer(config, layer_idx=0)
    fields = {"state_width": 5, "conv_width": 3, "dt_rank": 2, "chunk": chunk}
    reference = lambda x: (module(x),)
    compare("mamba", fields, reference, filled(module), mamba)


def test_mamba_is_the_block_of_mambapy():
    module = MambaBlock(BlockConfig(d_model=D, n_layers=1))
    compare("mamba", {}, lambda x: (module(x),), filled(module), mamba)


def plain_mamba(params, x_BxTxD, *, selected, gated):
    """Mamba, or its recurrence with constant dt, B and C, a token at a time in NumPy.

    h_t = exp(dt A) h_{t-1} + dt B x_t and y_t = C h_t + D x_t, of what the convolution
    and SiLU give.
    """
    silu = lambda x: x / (1 + np.exp(-x))
    A_FxN, kernel_WxF = -np.exp(params["A_log"]), params["conv_kernel"]
    (F, N), W = A_FxN.shape, len(kernel_WxF)
    inputs = x_BxTxD @ params["input"]["kernel"]
    assert inputs.shape[-1] == (2 * F if gated else F)
    h_BxFxN, outputs = np.zeros((len(x_BxTxD), F, N)), []
    for t in range(x_BxTxD.shape[1]):
        u_BxF = params["conv_bias"] + sum(
            kernel_WxF[W - 1 - i] * inputs[:, t - i, :F] for i in range(min(W, t + 1))
        )
        u_BxF = silu(u_BxF)
        if selected:
            rank = len(params["dt"]["kernel"])
            parts = np.split(u_BxF @ params["selection"]["kernel"], [rank, rank + N], 1)
            dt, B, C = parts[0] @ params["dt"]["kernel"], *parts[1:]
        else:
            dt, B, C = 0, params["B"][None], params["C"][None]
        dt = np.log1p(np.exp(dt + params["dt_bias"]))[..., None]
        h_BxFxN = np.exp(dt * A_FxN) * h_BxFxN + dt * B[:, None] * u_BxF[..., None]
        y_BxF = np.sum(C[:, None] * h_BxFxN, -1) + params["D"] * u_BxF
        outputs.append(y_BxF * silu(inputs[:, t, F:]) if gated else y_BxF)
    return np.stack(outputs, 1) @ params["output"]["kernel"]


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize(
    ("selection", "gate"), [("none", "silu"), ("none", "none"), ("input", "none")]
)
def test_mamba_without_selection_or_gate_is_its_recurrence(selection, gate, chunk):
    fields = {"state_width": 5, "conv_width": 3, "chunk": chunk}
    reference = lambda params, x: plain_mamba(
        params, x, selected=selection == "input", gated=gate == "silu"
    )
    compare_numpy("mamba", fields | {"selection": selection, "gate": gate}, reference)


@pytest.mark.parametrize(("groups", "chunk"), [(1, None), (2, 4)])
def test_mamba2_is_the_mixer_of_transformers(groups, chunk):
    config = Mamba2Config(
        hidden_size=D,
        num_heads=4,
        head_dim=8,
        state_size=6,
        n_groups=groups,
        chunk_size=8,
    )
    module = Mamba2Mixer(config, layer_idx=0)

    def ours(p):
        return {
            "input": {"kernel": p["in_proj.weight"].T},
            "conv_kernel": p["conv1d.weight"][:, 0].T,
            "conv_bias": p["conv1d.bias"],
            "dt_bias": p["dt_bias"],
            "A_log": p["A_log"],
            "D": p["D"],
            "norm_scale": p["norm.weight"],
            "output": {"kernel": p["out_proj.weight"].T},
        }

    fields = {"state_width": 6, "head_width": 8, "groups": groups, "chunk": chunk}
    compare("mamba2", fields, lambda x: (module(x),), filled(module), ours)


PARITY = {
    "mamba": (
        "transformers: Mamba; mambapy",
        (
            test_mamba_is_the_mixer_of_transformers,
            test_mamba_is_the_block_of_mambapy,
            test_mamba_without_selection_or_gate_is_its_recurrence,
        ),
    ),
    "mamba2": (
        "transformers: Mamba2",
        (test_mamba2_is_the_mixer_of_transformers,),
    ),
}
