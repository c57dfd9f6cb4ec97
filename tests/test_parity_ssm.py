"""Selective state spaces against transformers and mambapy."""

import pytest
from mambapy.mamba import MambaBlock
from mambapy.mamba import MambaConfig as BlockConfig
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from tests.oracles import D, compare, filled


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
        (test_mamba_is_the_mixer_of_transformers, test_mamba_is_the_block_of_mambapy),
    ),
    "mamba2": (
        "transformers: Mamba2",
        (test_mamba2_is_the_mixer_of_transformers,),
    ),
}
