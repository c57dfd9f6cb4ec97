"""Delta-rule mixers against transformers and fla-core's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import OlmoHybridConfig
from transformers.models.olmo_hybrid import modeling_olmo_hybrid as olmo

from lm import inits
from lm.mixers import gated_deltanet
from tests.oracles import B, D, T, compare, filled, naive
from tests.subjects import values

H, W = 2, 4


def _ours(p: dict, gated: bool, decayed: bool) -> dict:
    """Our parameters of those of OlmoHybrid, whose names fla-core's layers share."""
    kernel = lambda *names: {
        "kernel": np.concatenate([p[f"{n}_proj.weight"] for n in names]).T
    }
    params = {
        "qkv": kernel("q", "k", "v"),
        "conv_kernel": p["conv1d.weight"][:, 0].T,
        "beta": kernel("b"),
        "norm": {"scale": p["o_norm.weight"]},
        "output": kernel("o"),
    }
    if gated:
        params["gate"] = kernel("g")
    if decayed:
        decay = {"decay_gate": kernel("a"), "A_log": p["A_log"]}
        params |= decay | {"dt_bias": p["dt_bias"]}
    return params


@pytest.mark.parametrize("eigenvalues", ["positive", "signed"])
def test_gated_deltanet_is_the_layer_of_olmo_hybrid(eigenvalues):
    config = OlmoHybridConfig(
        hidden_size=D,
        num_attention_heads=H,
        linear_num_key_heads=H,
        linear_num_value_heads=H,
        linear_key_head_dim=6,
        linear_value_head_dim=12,
        linear_allow_neg_eigval=eigenvalues == "signed",
    )
    module = olmo.OlmoHybridGatedDeltaNet(config, layer_idx=0)
    fields = {"heads": H, "chunk": 4, "eigenvalues": eigenvalues}
    reference = lambda x: (module(x),)
    ours = lambda p: _ours(p, gated=True, decayed=True)
    compare("gated_deltanet", fields, reference, filled(module), ours)


class Layer(torch.nn.Module):
    """The projections, convolution, norm and gate of fla-core's layers, in torch."""

    def __init__(self, K: int, V: int, J: int = 1, gated=False, decayed=False):
        super().__init__()
        self.K, self.V, self.J = K, V, J
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        channels = H * (K + J * (K + V))
        self.q_proj = linear(D, H * K)
        self.k_proj = linear(D, J * H * K)
        self.v_proj = linear(D, J * H * V)
        self.b_proj = linear(D, J * H)
        self.o_proj = linear(H * V, D)
        self.conv1d = torch.nn.Conv1d(
            channels, channels, W, groups=channels, bias=False
        )
        self.o_norm = torch.nn.RMSNorm(V, eps=1e-5)
        self.g_proj = linear(D, H * V) if gated else None
        self.a_proj = linear(D, H) if decayed else None
        if decayed:
            self.A_log = torch.nn.Parameter(torch.empty(H))
            self.dt_bias = torch.nn.Parameter(torch.empty(H))

    def forward(self, rule, x, state, buffer):
        """rule: (q, k, v [B, T, (J,) H, ..], beta, g, state) -> (o, state)."""
        heads = lambda z, *shape: F.silu(z).view(B, T, *shape)
        unit = lambda z: z / torch.sqrt((z * z).sum(-1, keepdim=True) + 1e-6)
        K, V, J = self.K, self.V, self.J
        z = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        z = torch.cat([buffer, z], 1)
        q, k, v = self.conv1d(z.mT).mT.split([H * K, J * H * K, J * H * V], -1)
        beta = 2 * self.b_proj(x).sigmoid().view(B, T, J, H)
        g = None
        if self.a_proj:
            g = -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)
        q, k = unit(heads(q, H, K)), unit(heads(k, J, H, K))
        o, state = rule(q, k, heads(v, J, H, V), beta, g, state)
        y = self.o_norm(o).reshape(B, T, H * V)
        y = y * F.silu(self.g_proj(x)) if self.g_proj else y
        return self.o_proj(y), state, z[:, 1 - W :]


def _delta_rule(q, k, v, beta, g, state):
    assert g is None
    k, v, beta = (z.squeeze(2) for z in (k, v, beta))
    inputs = [z.transpose(1, 2) for z in (q, k, v, beta)]
    o, state = naive("delta_rule").delta_rule_recurrence(*inputs, state)
    return o.transpose(1, 2), state


def _delta_product(q, k, v, beta, g, state):
    J, K = k.shape[2], k.shape[-1]
    k, v, beta = (z.reshape(B, T * J, *z.shape[3:]) for z in (k, v, beta))
    recurrence = naive("gated_delta_product").naive_recurrent_gated_delta_product
    return recurrence(q, k, v, g, beta, K**-0.5, None, state, True, J)


def _compare(kind: str, rule, layer: Layer, fields: dict):
    """From a state: one token of the same document was before, so one is in reach."""
    reach = torch.tensor([0.0] * (W - 2) + [1.0])[:, None]
    reference = lambda x, state, buffer: layer(rule, x, state, reach * buffer)
    channels = layer.conv1d.in_channels
    state = {
        "S": values(B, H, layer.K, layer.V, seed=2),
        "conv": values(B, W - 1, channels, seed=3) * reach.numpy(),
    }
    gated, decayed = layer.g_proj is not None, layer.a_proj is not None
    fields = {"heads": H, "chunk": 4, "eigenvalues": "signed"} | fields
    ours = lambda p: _ours(p, gated, decayed)
    compare(kind, fields, reference, filled(layer), ours, state)


def test_deltanet_is_the_definition_of_fla():
    fields = {"key_expand": 0.5, "value_expand": 1.5}
    _compare("deltanet", _delta_rule, Layer(4, 12), fields)


@pytest.mark.parametrize("householders, decay", [(2, "gated"), (3, "none")])
def test_deltaproduct_is_the_definition_of_fla(householders, decay):
    layer = Layer(6, 12, householders, gated=True, decayed=decay == "gated")
    fields = {"householders": householders, "decay": decay}
    _compare("deltaproduct", _delta_product, layer, fields)


def test_decays_are_born_as_published():
    """A uniform in (0, 16), and time steps log-uniform in [1e-3, 0.1]."""
    draw = lambda init: np.float64(init(jax.random.key(0), (4096,), jnp.float32))
    A = np.exp(draw(gated_deltanet.a_log_init))
    log_dt = np.log(np.log1p(np.exp(draw(inits.time_step))))
    for x, low, high in ((A, 0, 16), (log_dt, np.log(1e-3), np.log(0.1))):
        grid = np.linspace(low, high, 9)
        np.testing.assert_allclose(np.quantile(x, np.linspace(0, 1, 9)), grid, 0, 0.3)
        assert np.isfinite(x).all()


PARITY = {
    "deltanet": ("fla-core: delta_rule", (test_deltanet_is_the_definition_of_fla,)),
    "deltaproduct": (
        "fla-core: gated_delta_product",
        (test_deltaproduct_is_the_definition_of_fla,),
    ),
    "gated_deltanet": (
        "transformers: OlmoHybrid",
        (test_gated_deltanet_is_the_layer_of_olmo_hybrid,),
    ),
}
