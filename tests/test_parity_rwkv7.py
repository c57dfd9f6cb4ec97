"""RWKV-7 against the package `rwkv`, and against fla-core's definition in torch."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lm import sequence
from lm.mixers import rwkv7
from tests.oracles import B, D, T, compare, filled, naive
from tests.subjects import close, values

H = 2
MATRICES = ("receptance", "key", "value", "output")
SHIFTS = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
VECTORS = ("w0", "a0", "v0", "k_k", "k_a", "ln_w", "ln_b")
LORAS = ("w", "a", "v", "g")
V_FIRST = values(B, T, D, seed=7)


class TimeMix(torch.nn.Module):
    """Parameters under their official names; the recurrence is fla-core's."""

    def __init__(self, width: int, rank: int = 5):
        super().__init__()
        shapes = dict.fromkeys((*SHIFTS, *VECTORS), (width,))
        shapes |= dict.fromkeys(MATRICES, (width, width))
        shapes |= {f"{n}1": (width, rank) for n in LORAS}
        shapes |= {f"{n}2": (rank, width) for n in LORAS}
        shapes["r_k"] = (H, width // H)
        for name, shape in shapes.items():
            setattr(self, name, torch.nn.Parameter(torch.empty(shape)))

    def forward(self, x, S, shift, v_first):
        heads = lambda x: x.unflatten(-1, (H, -1)).transpose(1, 2)
        before = torch.cat([shift[:, None], x[:, :-1]], 1)
        xr, xw, xk, xv, xa, xg = (
            x + (before - x) * getattr(self, name) for name in SHIFTS
        )
        r, k, v = xr @ self.receptance.T, xk @ self.key.T, xv @ self.value.T
        w = -np.exp(-0.5) * torch.sigmoid(self.w0 + torch.tanh(xw @ self.w1) @ self.w2)
        a = torch.sigmoid(self.a0 + xa @ self.a1 @ self.a2)
        g = torch.sigmoid(xg @ self.g1) @ self.g2
        kappa = F.normalize(heads(k * self.k_k), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        v = v + (v_first - v) * torch.sigmoid(self.v0 + xv @ self.v1 @ self.v2)
        r, w, k, v, a = map(heads, (r, w, k, v, a))
        recurrence = naive("generalized_delta_rule/dplr").dplr_recurrence
        K = r.shape[-1]
        o, S = recurrence(r * K**0.5, k, v, -kappa, kappa * a, w, S)
        o = F.group_norm(
            o.transpose(1, 2).reshape(B * T, -1), H, self.ln_w, self.ln_b, 1e-5 * K
        ).view(x.shape)
        bonus = (r * k * self.r_k[:, None]).sum(-1, keepdim=True) * v
        o = o + bonus.transpose(1, 2).reshape(x.shape)
        return (o * g) @ self.output.T, S, x[:, -1]


def ours(p: dict) -> dict:
    """Our parameters of the official ones."""
    lora = lambda name, n: {f"{name}_up": p[f"{n}2"], f"{name}_down": p[f"{n}1"]}
    heads = lambda x: x.reshape(p["r_k"].shape)
    return (
        {name: {"kernel": p[name].T} for name in MATRICES}
        | {
            "mix_scale": np.stack([p[name] for name in SHIFTS]),
            "decay_lora_bias": p["w0"],
            "rate_lora_bias": p["a0"],
            "value_lora_bias": p["v0"],
            "kappa_scale": p["k_k"],
            "rate_scale": p["k_a"],
            "bonus_scale": p["r_k"],
            "norm_scale": heads(p["ln_w"]),
            "norm_bias": heads(p["ln_b"]),
        }
        | lora("decay_lora", "w")
        | lora("rate_lora", "a")
        | lora("value_lora", "v")
        | lora("gate_lora", "g")
    )


RANKS = {f"{name}_rank": 5 for name in ("decay", "rate", "value", "gate")}


def test_rwkv7_is_its_equations_in_torch(monkeypatch):
    """The gradients too, in a layer after the first."""
    module = TimeMix(D)
    carry = {"v_first": jnp.asarray(V_FIRST), "v_known": jnp.array(True)}
    monkeypatch.setattr(rwkv7.RWKV7, "initial_carry", lambda self, *sizes: carry)
    reference = lambda *inputs: module(*inputs, torch.from_numpy(V_FIRST))
    fields = {"heads": H, "chunk": 4, **RANKS}
    state = {"S": values(B, H, D // H, D // H, seed=2), "shift": values(B, D, seed=3)}
    compare("rwkv7", fields, reference, filled(module), ours, state, layers=3, layer=1)


@pytest.fixture
def package(monkeypatch):
    """The module of the package that has RWKV-7, uncompiled."""
    monkeypatch.setenv("RWKV_V7_ON", "1")
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    spec = importlib.util.find_spec("rwkv.model")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rwkv7_is_the_time_mix_of_the_rwkv_package(package):
    """Two layers, the second with the values of the first; 64 channels a head."""
    K, width = 64, 64 * H
    mixer = rwkv7.RWKV7(width, 2, jnp.float32, **RANKS)
    carry, first = mixer.initial_carry(1, T), torch.zeros(T, width)
    for layer in (0, 1):
        module = TimeMix(width)
        p = {k: x.detach() for k, x in filled(module).items()}
        p |= {name: p[name] / 6 for name in MATRICES}
        x_TxD = values(T, width, seed=layer)
        S_HxKxK, shift_D = values(H, K, K, seed=2), values(width, seed=3)
        names = [*SHIFTS, *(f"{n}{i}" for n in "wav" for i in range(3)), "g1", "g2"]
        weights = [p[name] for name in (*names, "k_k", "k_a")]
        weights += [p["r_k"].flatten(), *(p[name].T for name in MATRICES)]
        tensors = map(torch.tensor, (x_TxD, shift_D))
        S = torch.tensor(S_HxKxK.swapaxes(1, 2).copy())  # theirs is [V, K]
        y, last, S, first = package.RWKV_x070_TMix_seq(
            layer, H, K, *tensors, first, S, *weights, p["ln_w"], p["ln_b"]
        )
        seq = sequence.full(1, T, start=1)._replace(layer=jnp.int32(layer))
        state = {"S": S_HxKxK[None], "shift": shift_D[None]}
        params = ours({k: x.numpy() for k, x in p.items()})
        got, state, carry = jax.jit(mixer.apply)(
            {"params": params}, x_TxD[None], seq, state, carry
        )
        theirs = (y, S.mT, last, first)
        for mine, want in zip(
            (got, *state.values(), carry["v_first"]), theirs, strict=True
        ):
            limit = 1e-5 * want.abs().max()
            np.testing.assert_allclose(mine[0], want, rtol=0, atol=limit)


def test_the_first_layer_keeps_its_own_values():
    """As a later one with no share of the first layer's, in all gradients."""
    mixer = rwkv7.RWKV7(D, 2, jnp.float32, heads=H, **RANKS)
    params = ours({k: p.detach().numpy() for k, p in filled(TimeMix(D)).items()})
    alone = params | {"value_lora_bias": np.full(D, -1e4, np.float32)}

    @jax.jit
    def run(params, known):
        def loss(params):
            seq = sequence.full(B, T)
            carry = {"v_first": jnp.asarray(V_FIRST), "v_known": known}
            x_BxTxD, state = values(B, T, D, seed=1), mixer.initial_state(B, 0)
            y = mixer.apply({"params": params}, x_BxTxD, seq, state, carry)[0]
            return jnp.sum(y * values(B, T, D, seed=9))

        return jax.value_and_grad(loss)(params)

    close(run(params, False), run(alone, True))


def test_vectors_start_as_in_the_official_code():
    width, K, layer, depth = 192, 64, 1, 4
    mixer = rwkv7.RWKV7(width, depth, jnp.float32)
    key = jax.random.key(0)
    seq = sequence.full(1, 1)._replace(layer=jnp.int32(layer), key=key)
    arguments = mixer.initial_state(1, 0), mixer.initial_carry(1, 1)
    params = mixer.init(key, np.zeros((1, 1, width), np.float32), seq, *arguments)
    params, middle = params["params"], (K - 1) / 2
    powers = np.array([0.2, 0.9, 0.7, 0.7, 0.9, 0.2]) * (1 - layer / depth)
    for n in range(width):
        zigzag, linear = (n % K - middle) / middle, n / (width - 1) - 0.5
        zigzag *= abs(zigzag)
        decay = -6 + 6 * (n / (width - 1)) ** (1 + (layer / (depth - 1)) ** 0.3)
        want = {
            "decay_lora_bias": decay + 0.5 + 2.5 * zigzag,
            "rate_lora_bias": -0.19 + 0.3 * zigzag + 0.4 * linear,
            "value_lora_bias": 0.73 - 0.4 * linear,
            "kappa_scale": 0.71 - 0.1 * linear,
        }
        for name, value in want.items():
            np.testing.assert_allclose(params[name][n], value, 1e-5, 1e-5, name)
        mix = 1 - (n / width) ** powers
        np.testing.assert_allclose(params["mix_scale"][:, n], mix, 1e-5, 1e-5)
    np.testing.assert_allclose(params["norm_scale"], 0.5**0.7, 1e-6)
    assert params["gate_lora_up"].shape == (64, width)
    for name, gain in {"receptance": 1, "key": 0.1, "value": 1, "output": 0}.items():
        W = params[name]["kernel"]
        np.testing.assert_allclose(W.T @ W, gain**2 * np.eye(width), atol=1e-5)


PARITY = {
    "rwkv7": (
        "rwkv: RWKV_x070_TMix_seq; fla-core: dplr",
        (
            test_rwkv7_is_the_time_mix_of_the_rwkv_package,
            test_rwkv7_is_its_equations_in_torch,
        ),
    ),
}
