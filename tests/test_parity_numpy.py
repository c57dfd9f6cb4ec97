"""Mixers against their papers' equations, transcribed in NumPy in float64.

For mixers without an independent implementation to run, or whose other oracle covers
less than the whole. Written from the papers alone: one step at a time, in the order of
the equations, with no chunks, no stabilised logarithms and no shared helpers of `lm`.

The reference functions take (params, x_BxTxD) as `compare_numpy` gives them: one
document, no padding, all states zero before the first token.
"""

import functools

import numpy as np
import pytest

from tests.oracles import compare_numpy

sigmoid = lambda x: 1 / (1 + np.exp(-x))
silu = lambda x: x * sigmoid(x)
softplus = lambda x: np.log1p(np.exp(x))


def softmax(x, axis):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def layer_norm(x, eps):
    """Over the last axis, without scale or bias."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def rms_norm(x, eps):
    """Over the last axis, without a scale."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def causal_conv(x_BxTxC, kernel_WxC, bias_C):
    """Depthwise: y_t = bias + sum_j kernel_(W-1-j) x_(t-j), x zero before the start."""
    W = len(kernel_WxC)
    y_BxTxC = np.zeros(x_BxTxC.shape) + bias_C
    for t in range(x_BxTxC.shape[1]):
        for j in range(min(W, t + 1)):
            y_BxTxC[:, t] += kernel_WxC[W - 1 - j] * x_BxTxC[:, t - j]
    return y_BxTxC


def slstm(params, x_BxTxD, *, forget="sigmoid"):
    """xLSTM, Beck et al. 2024, arXiv 2405.04517: eq. 8-14, without the state of eq. 15.

    The stabiliser of eq. 15-17 leaves h as it is. Heads, the convolution before i and
    f, and the norm of each head are those of the paper's sLSTM block (appendix).
    """
    B, T, D = x_BxTxD.shape
    R_HxKx4K = params["recurrent_kernel"]
    H, K, _ = R_HxKx4K.shape
    R_HxKxGxK = R_HxKx4K.reshape(H, K, 4, K)  # the gates i, f, z, o
    bias_GxHxK = params["bias"].reshape(4, H, K)
    conv = causal_conv(x_BxTxD, params["conv_kernel"], params["conv_bias"])
    x_BxTxHxK = x_BxTxD.reshape(B, T, H, K)
    conv_BxTxHxK = silu(conv).reshape(B, T, H, K)

    c_BxHxK, n_BxHxK, h_BxHxK = np.zeros((3, B, H, K))
    h_BxTxHxK = np.zeros((B, T, H, K))
    for t in range(T):

        def gate(g, input_BxTxHxK, name, t=t, h_BxHxK=h_BxHxK):  # eq. 11-14, inner
            W_HxKxK = params[name]
            given = np.einsum("bhk,hkj->bhj", input_BxTxHxK[:, t], W_HxKxK)
            mixed = np.einsum("bhk,hkj->bhj", h_BxHxK, R_HxKxGxK[:, :, g])
            return given + mixed + bias_GxHxK[g]

        i = np.exp(gate(0, conv_BxTxHxK, "input_gate_kernel"))  # eq. 12
        f = gate(1, conv_BxTxHxK, "forget_gate_kernel")  # eq. 13
        f = {"sigmoid": sigmoid, "exp": np.exp}[forget](f)
        z = np.tanh(gate(2, x_BxTxHxK, "cell_input_kernel"))  # eq. 11
        o = sigmoid(gate(3, x_BxTxHxK, "output_gate_kernel"))  # eq. 14
        c_BxHxK = f * c_BxHxK + i * z  # eq. 8
        n_BxHxK = f * n_BxHxK + i  # eq. 9
        h_BxHxK = o * c_BxHxK / n_BxHxK  # eq. 10
        h_BxTxHxK[:, t] = h_BxHxK
    y_BxTxHxK = layer_norm(h_BxTxHxK, 1e-5) * params["norm"]["scale"]
    return y_BxTxHxK.reshape(B, T, D)


def additive_attention(params, x_BxTxD):
    """Bahdanau et al. 2015, arXiv 1409.0473: eq. 5, 6 and A.1.2, over tokens s <= t."""
    B, T, D = x_BxTxD.shape
    v_HxK = params["score_kernel"]
    H, K = v_HxK.shape
    q_BxTxHxK = (
        x_BxTxD @ params["query"]["kernel"] + params["query"].get("bias", 0.0)
    ).reshape(B, T, H, K)
    k_BxTxHxK = (x_BxTxD @ params["key"]["kernel"]).reshape(B, T, H, K)
    v_BxTxHxV = (x_BxTxD @ params["value"]["kernel"]).reshape(B, T, H, D // H)

    context_BxTxHxV = np.zeros((B, T, H, D // H))
    for t in range(T):
        past = slice(0, t + 1)
        hidden_BxSxHxK = np.tanh(q_BxTxHxK[:, t, None] + k_BxTxHxK[:, past])
        e_BxSxH = np.sum(v_HxK * hidden_BxSxHxK, -1)  # A.1.2
        alpha_BxSxH = softmax(e_BxSxH, axis=1)  # eq. 6
        context_BxTxHxV[:, t] = np.sum(  # eq. 5
            alpha_BxSxH[..., None] * v_BxTxHxV[:, past], 1
        )
    return context_BxTxHxV.reshape(B, T, D) @ params["output"]["kernel"]


def hgrn(params, x_BxTxD, *, layers, layer):
    """HGRN, Qin et al. 2023, arXiv 2311.04823, section 3.2, with a real-valued state.

    The lower bounds' parameter is zero: softmax over the layers gives 1/layers each,
    and a layer's bound is the sum over those below it.
    """
    bound = layer / layers
    f_BxTxE = bound + (1 - bound) * sigmoid(x_BxTxD @ params["forget"]["kernel"])
    c_BxTxE = silu(x_BxTxD @ params["input"]["kernel"])
    h_BxTxE = np.zeros(f_BxTxE.shape)
    h_BxE = np.zeros(f_BxTxE[:, 0].shape)
    for t in range(x_BxTxD.shape[1]):
        f_BxE = f_BxTxE[:, t]
        h_BxE = f_BxE * h_BxE + (1 - f_BxE) * c_BxTxE[:, t]
        h_BxTxE[:, t] = h_BxE
    gate_BxTxE = silu(x_BxTxD @ params["gate"]["kernel"])
    y_BxTxE = rms_norm(h_BxTxE, 1e-5) * params["norm"]["scale"] * gate_BxTxE
    return y_BxTxE @ params["output"]["kernel"]


def retnet(params, x_BxTxD, *, heads):
    """RetNet, Sun et al. 2023, arXiv 2307.08621: eq. 5 and 8, as a sum over the past.

    q and k are complex numbers here, one of each interleaved pair of columns: rotation
    is multiplication by exp(i n theta), and q . k the real part of q times conj(k).
    """
    B, T, _ = x_BxTxD.shape
    project = lambda name: (x_BxTxD @ params[name]["kernel"]).reshape(B, T, heads, -1)
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxV = map(project, ("query", "key", "value"))
    K = q_BxTxHxK.shape[-1]
    theta_P = 1e-4 ** np.linspace(0, 1, K // 2)
    turn_TxHxP = np.exp(1j * np.arange(T)[:, None, None] * theta_P)
    rotate = lambda x_BxTxHxK: (
        turn_TxHxP * (x_BxTxHxK[..., 0::2] + 1j * x_BxTxHxK[..., 1::2])
    )
    q_BxTxHxP, k_BxTxHxP = rotate(q_BxTxHxK), rotate(k_BxTxHxK) * K**-0.5

    gamma_H = 1 - 2.0 ** (-5 - np.arange(heads))  # eq. 8
    o_BxTxHxV = np.zeros(v_BxTxHxV.shape)
    for t in range(T):
        for s in range(t + 1):
            qk_BxH = np.sum(q_BxTxHxP[:, t] * k_BxTxHxP[:, s].conj(), -1).real
            weight_BxH = gamma_H ** (t - s) * qk_BxH  # eq. 5
            o_BxTxHxV[:, t] += weight_BxH[..., None] * v_BxTxHxV[:, s]
    y_BxTxE = layer_norm(o_BxTxHxV, 1e-6).reshape(B, T, -1)
    gate_BxTxE = silu(x_BxTxD @ params["gate"]["kernel"])
    return (gate_BxTxE * y_BxTxE) @ params["output"]["kernel"]


def mamba2(params, x_BxTxD, *, head_width, groups=1):
    """Mamba-2, Dao and Gu 2024, arXiv 2405.21060: section 7.1, and the scalar SSM.

    One projection gives z, x, B, C and dt; convolution and SiLU act on x, B and C; the
    gated norm is RMSNorm(y SiLU(z)), over the channels of one group at a time.
    """
    Bt, T, _ = x_BxTxD.shape
    H, P, G = len(params["A_log"]), head_width, groups
    E = H * P
    proj = x_BxTxD @ params["input"]["kernel"]
    N = (proj.shape[-1] - 2 * E - H) // (2 * G)
    z_BxTxE, xBC_BxTxC, dt_BxTxH = np.split(proj, (E, proj.shape[-1] - H), -1)
    xBC_BxTxC = silu(causal_conv(xBC_BxTxC, params["conv_kernel"], params["conv_bias"]))
    x_BxTxE, B_BxTxM, C_BxTxM = np.split(xBC_BxTxC, (E, E + G * N), -1)
    x_BxTxHxP = x_BxTxE.reshape(Bt, T, H, P)
    per_head = lambda M: np.repeat(M.reshape(Bt, T, G, N), H // G, 2)
    B_BxTxHxN, C_BxTxHxN = per_head(B_BxTxM), per_head(C_BxTxM)
    dt_BxTxH = softplus(dt_BxTxH + params["dt_bias"])
    A_H = -np.exp(params["A_log"])

    h_BxHxNxP = np.zeros((Bt, H, N, P))
    y_BxTxHxP = np.zeros((Bt, T, H, P))
    for t in range(T):
        decay_BxH = np.exp(dt_BxTxH[:, t] * A_H)
        input_BxHxN = dt_BxTxH[:, t, :, None] * B_BxTxHxN[:, t]
        h_BxHxNxP = decay_BxH[..., None, None] * h_BxHxNxP + np.einsum(
            "bhn,bhp->bhnp", input_BxHxN, x_BxTxHxP[:, t]
        )
        y_BxTxHxP[:, t] = np.einsum("bhn,bhnp->bhp", C_BxTxHxN[:, t], h_BxHxNxP)
        y_BxTxHxP[:, t] += params["D"][:, None] * x_BxTxHxP[:, t]
    y_BxTxE = y_BxTxHxP.reshape(Bt, T, E) * silu(z_BxTxE)
    y_BxTxGxF = rms_norm(y_BxTxE.reshape(Bt, T, G, -1), 1e-5)
    y_BxTxE = y_BxTxGxF.reshape(Bt, T, E) * params["norm_scale"]
    return y_BxTxE @ params["output"]["kernel"]


@pytest.mark.parametrize(
    "fields",
    [{"heads": 2}, {"heads": 4, "conv_width": 2}, {"heads": 2, "forget": "exp"}],
    ids=str,
)
def test_slstm(fields):
    forget = fields.get("forget", "sigmoid")
    compare_numpy("slstm", fields, functools.partial(slstm, forget=forget))


@pytest.mark.parametrize(
    "fields",
    [
        {"heads": 2, "key_width": 6},
        {"heads": 1, "bias": True},
        {"heads": 2, "chunk": 4},
    ],
    ids=str,
)
def test_additive_attention(fields):
    compare_numpy("additive_attention", fields, additive_attention)


@pytest.mark.parametrize(
    "fields, layers, layer",
    [({}, 1, 0), ({}, 4, 0), ({}, 4, 3), ({"expand": 2.0}, 3, 1)],
    ids=str,
)
def test_hgrn(fields, layers, layer):
    reference = functools.partial(hgrn, layers=layers, layer=layer)
    compare_numpy("hgrn", fields, reference, layers=layers, layer=layer)


@pytest.mark.parametrize(
    "fields",
    [{"heads": 4}, {"heads": 2, "chunk": 4}, {"heads": 2, "value_expand": 1.0}],
    ids=str,
)
def test_retnet(fields):
    compare_numpy("retnet", fields, functools.partial(retnet, heads=fields["heads"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"head_width": 8, "state_width": 4},
        {"head_width": 8, "state_width": 4, "chunk": 4},
        {"head_width": 8, "state_width": 4, "groups": 2, "conv_width": 2},
    ],
    ids=str,
)
def test_mamba2(fields):
    of = {"head_width": fields["head_width"], "groups": fields.get("groups", 1)}
    compare_numpy("mamba2", fields, functools.partial(mamba2, **of))


PARITY = {
    "slstm": ("NumPy transcription", (test_slstm,)),
    "additive_attention": ("NumPy transcription", (test_additive_attention,)),
    "hgrn": ("NumPy transcription", (test_hgrn,)),
    "retnet": ("NumPy transcription", (test_retnet,)),
    "mamba2": ("NumPy transcription", (test_mamba2,)),
}
