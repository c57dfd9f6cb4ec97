"""Linear attention without and with fixed or learned decays, against fla-core."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles import B, D, T, compare, filled, naive
from tests.subjects import values

H, V = 2, D // 2


def _split(x):
    return x.unflatten(-1, (-1, x.shape[-1] // H))


def _projections(**widths: int) -> nn.ModuleDict:
    """A matrix from D to each width, and `output` back from the widest of them."""
    module = {name: nn.Linear(D, width, bias=False) for name, width in widths.items()}
    output = nn.Linear(widths["value"], D, bias=False)
    return nn.ModuleDict(module | {"output": output})


def _kernels(p: dict) -> dict:
    """Our Dense layers of the same names."""
    matrices = {k: x for k, x in p.items() if k.endswith(".weight") and x.ndim == 2}
    return {k.removesuffix(".weight"): {"kernel": x.T} for k, x in matrices.items()}


def _normalised(q, k, v, state):
    """Linear attention from a state whose last column sums the keys, and the last."""
    state = (state[..., :-1], state[..., -1][:, None])
    attend = naive("linear_attn").naive_recurrent_linear_attn
    o, (memory, total) = attend(q, k, v, 1.0, state, True, normalize=True)
    return o, torch.cat([memory, total[:, 0, ..., None]], -1)


POINTWISE = {"elu": lambda x: F.elu(x) + 1, "relu": F.relu}


@pytest.mark.parametrize("feature_map", POINTWISE)
@pytest.mark.parametrize("width", [V, 5])
def test_linear_attention_is_that_of_fla(feature_map, width):
    module = _projections(query=H * width, key=H * width, value=D)
    phi = POINTWISE[feature_map]

    def reference(x, state):
        q, k, v = (_split(module[name](x)) for name in ("query", "key", "value"))
        o, state = _normalised(phi(q), phi(k), v, state)
        return module["output"](o.flatten(-2)), state

    fields = {"heads": H, "feature_map": feature_map, "feature_width": width}
    # Sums of features are positive; far from 0, the two guards of a division agree.
    state = 1 + np.abs(values(B, H, width, V + 1, seed=2))
    compare("linear_attention", fields, reference, filled(module), _kernels, state)


def test_a_hedgehog_is_linear_attention_over_its_features():
    module = _projections(query=D, key=D, value=D)
    maps = {f"{name}_map": nn.ModuleList() for name in ("query", "key")}
    for linears in maps.values():
        linears.extend(nn.Linear(V, V) for _ in range(H))
    module.update(maps)

    def phi(x, linears):
        x = torch.stack([linears[h](x[:, :, h]) for h in range(H)], 2)
        return torch.cat([x, -x], -1).softmax(-1)

    def reference(x, state):
        q, k, v = (_split(module[name](x)) for name in ("query", "key", "value"))
        q, k = phi(q, module["query_map"]), phi(k, module["key_map"])
        o, state = _normalised(q, k, v, state)
        return module["output"](o.flatten(-2)), state

    def ours(p):
        heads = lambda name: np.stack([p[name.format(h)] for h in range(H)])
        params = _kernels({k: x for k, x in p.items() if "_map" not in k})
        for name in maps:
            params[f"{name}_kernel"] = heads(name + ".{}.weight").swapaxes(1, 2)
            params[f"{name}_bias"] = heads(name + ".{}.bias")
        return params

    fields = {"heads": H, "feature_map": "hedgehog"}
    state = 1 + np.abs(values(B, H, 2 * V, V + 1, seed=2))
    compare("linear_attention", fields, reference, filled(module), ours, state)


@pytest.mark.parametrize("width", [V, 3])
def test_a_taylor_map_is_based(width):
    module = _projections(query=H * width, key=H * width, value=D)

    def reference(x):
        heads = (_split(module[name](x)) for name in ("query", "key", "value"))
        q, k, v = (x.transpose(1, 2) for x in heads)
        o = naive("based").naive_parallel_based(q, k, v).transpose(1, 2)
        return (module["output"](o.flatten(-2)),)

    fields = {"heads": H, "feature_map": "taylor", "feature_width": width}
    compare("linear_attention", fields, reference, filled(module), _kernels)


def test_norm_attention_is_linear_attention_with_an_rmsnorm():
    module = _projections(query=D, key=D, value=D)
    module.update({"norm": nn.RMSNorm(V, eps=1e-6)})
    attend = naive("linear_attn").naive_recurrent_linear_attn

    def reference(x, state):
        q, k, v = (_split(module[name](x)) for name in ("query", "key", "value"))
        o, state = attend(F.elu(q) + 1, F.elu(k) + 1, v, 1.0, state, True)
        return module["output"](module["norm"](o).flatten(-2)), state

    ours = lambda p: _kernels(p) | {"norm": {"scale": p["norm.weight"]}}
    state = values(B, H, V, V, seed=2)
    fields = {"heads": H, "norm": "rms"}
    compare("linear_attention", fields, reference, filled(module), ours, state)


def test_rotary_linear_attention_is_that_of_roformer():
    """Every pair of tokens at once, turned above the divisor alone."""
    module = _projections(query=D, key=D, value=D)
    angles = torch.arange(T)[:, None, None] * 10_000 ** -(torch.arange(V // 2) * 2 / V)

    def rotated(x):
        pairs = torch.complex(*x.chunk(2, -1)) * torch.exp(1j * angles)
        return torch.cat([pairs.real, pairs.imag], -1)

    def reference(x):
        q, k, v = (_split(module[name](x)) for name in ("query", "key", "value"))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        weights = lambda q, k: torch.einsum("bthk,bshk->bhts", q, k).tril()
        total = weights(q, k).sum(-1, keepdim=True)
        o = (weights(rotated(q), rotated(k)) / total) @ v.transpose(1, 2)
        return (module["output"](o.transpose(1, 2).flatten(-2)),)

    fields = {"heads": H, "position": "rope", "chunk": 4}
    compare("linear_attention", fields, reference, filled(module), _kernels)


@pytest.mark.parametrize(("heads", "expand"), [(2, 2), (4, 1), (8, 2)])
def test_retnet_is_the_retention_of_fla(heads, expand):
    F_, K = expand * D, D // heads
    module = _projections(query=D, key=D, value=F_, gate=F_)
    angles = torch.arange(T)[:, None] * 10_000 ** -torch.linspace(0, 1, K // 2)

    def rotated(x):
        pairs = torch.view_as_complex(x.unflatten(-1, (K // 2, 2)).contiguous())
        return torch.view_as_real(pairs * torch.exp(1j * angles)).flatten(-2)

    def reference(x):
        split = lambda name: module[name](x).unflatten(-1, (heads, -1)).transpose(1, 2)
        q, k = rotated(split("query")), rotated(split("key"))
        o = naive("retention").naive_retention(q, k, split("value"))
        o = F.group_norm(o.transpose(1, 2).reshape(B * T, F_), heads, eps=1e-6)
        return (module["output"](o.view(B, T, F_) * F.silu(module["gate"](x))),)

    fields = {"heads": heads, "value_expand": float(expand)}
    compare("retnet", fields, reference, filled(module), _kernels)


def test_gla_is_that_of_fla():
    module = _projections(query=D // 2, key=D // 2, value=D, gate=D, decay_rank=3)
    module.update({"decay": nn.Linear(3, D // 2), "norm": nn.RMSNorm(V, eps=1e-5)})

    def reference(x, state):
        gate = module["decay"](module["decay_rank"](x))
        q, k, v = (_split(module[name](x)) for name in ("query", "key", "value"))
        decay = _split(F.logsigmoid(gate) / 4)
        o, state = naive("gla").naive_recurrent_gla(q, k, v, decay, state, True)
        o = module["norm"](o).flatten(-2) * F.silu(module["gate"](x))
        return module["output"](o), state

    def ours(p):
        params = _kernels(p) | {"norm": {"scale": p["norm.weight"]}}
        params["decay"] = params["decay"] | {"bias": p["decay.bias"]}
        return params

    fields = {"heads": H, "gate_rank": 3, "gate_divisor": 4.0}
    state = values(B, H, D // 2 // H, V, seed=2)
    compare("gla", fields, reference, filled(module), ours, state)


PARITY = {
    "gla": ("fla-core: gla", (test_gla_is_that_of_fla,)),
    "linear_attention": (
        "fla-core: linear_attn, based; torch: RoFormer's equation 19",
        (
            test_linear_attention_is_that_of_fla,
            test_a_hedgehog_is_linear_attention_over_its_features,
            test_a_taylor_map_is_based,
            test_norm_attention_is_linear_attention_with_an_rmsnorm,
            test_rotary_linear_attention_is_that_of_roformer,
        ),
    ),
    "retnet": ("fla-core: retention", (test_retnet_is_the_retention_of_fla,)),
}
