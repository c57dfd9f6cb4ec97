"""Costs against formulas written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import count
from lm.ops import attention, diagonal, kv_cache
from tests.subjects import VOCAB, WIDTH, language_model

D, V = WIDTH, VOCAB
HYBRID = ("rglru", "attention", "lstm")


def plain(name, **changes):
    """One layer of a mixer without an MLP."""
    return language_model((name,), mlp="none", **changes)[0]


def repeated_heads(q_BxTxHxK, k_BxSxGxK, v_BxSxGxK, query, key, **options):
    """Another form of attention: keys and values repeated to one a query head."""
    repeat = q_BxTxHxK.shape[2] // k_BxSxGxK.shape[2]
    k_BxSxHxK, v_BxSxHxK = (jnp.repeat(x, repeat, 2) for x in (k_BxSxGxK, v_BxSxGxK))
    logits_BxHxTxS = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxSxHxK)
    mask_Bx1xTxS = kv_cache.visible(query, key)[:, None]
    weights_BxHxTxS = jax.nn.softmax(logits_BxHxTxS, where=mask_Bx1xTxS)
    return jnp.einsum("bhts,bshk->bthk", weights_BxHxTxS, v_BxSxHxK)


def test_model_flops_do_not_move_with_the_program(monkeypatch):
    model, _ = language_model(HYBRID, 5)
    want = count.forward_flops(model, 50)
    assert count.forward_flops(model.unrolled(), 50) == want
    for remat in ("full", "dots"):
        assert count.forward_flops(model.clone(remat=remat), 50) == want
    used = set()
    record = lambda form: lambda *x, **y: used.add(form) or form(*x, **y)
    forms = {jax.default_backend(): record(diagonal.associative)}
    monkeypatch.setattr(diagonal, "FORMS", forms)
    monkeypatch.setattr(attention, "attend", record(repeated_heads))
    assert count.forward_flops(model, 50) == want
    assert used == {diagonal.associative, repeated_heads}


def test_executed_flops_of_an_lstm():
    T, rows = 1000, 2
    hand = rows * T * (2 * D * 4 * D + 2 * D * 4 * D + 2 * D * V)
    model = plain("lstm")
    assert rows * count._flops_of_call(model, T) == pytest.approx(hand, rel=0.01)
    # Backward: two products for each, with respect to its input and to its weights.
    assert count.executed_step(model, rows, T) == pytest.approx(3 * hand, rel=0.01)


def test_executed_flops_count_what_runs_and_refuse_what_has_no_length():
    A = jnp.ones((4, 4))
    one = 2 * 4**3

    def program(x):
        x, _ = jax.lax.scan(lambda x, _: (x @ A, None), x, length=7)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ A @ A, lambda x: x @ A, x)

    assert count.executed(jax.make_jaxpr(jax.jit(program))(A)) == 9 * one
    loop = lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ A, x)
    with pytest.raises(ValueError, match="no known length"):
        count.executed(jax.make_jaxpr(loop)(A))
    image, kernel = jnp.ones((1, 3, 10)), jnp.ones((5, 3, 4))
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1,), "VALID")
    flops = 2 * (1 * 5 * 7) * 3 * 4
    assert count.executed(jax.make_jaxpr(convolve)(image, kernel)) == flops


@pytest.mark.parametrize(
    ("name", "H", "G", "K", "window"),
    [
        ("attention", 2, 2, 8, None),
        ("attention_gqa", 4, 2, 4, None),
        ("window", 2, 2, 8, 4),
    ],
)
def test_model_flops_of_attention_are_of_causal_pairs(name, H, G, K, window):
    T = 30
    token = 2 * D * (H + 2 * G) * K + 2 * H * K * D + 2 * D * V
    pairs = sum(min(t + 1, window or T) for t in range(T))
    model = plain(name)
    assert count.forward_flops(model, T) == T * token + pairs * 4 * H * K
    seen = min(T + 1, window or T + 1)
    assert count.decode_flops(model, T) == token + seen * 4 * H * K


def test_model_flops_of_recurrences():
    T, gates = 30, 2 * 2 * D * (D // 2)
    lstm = T * (2 * D * 4 * D + 2 * D * 4 * D + 2 * D * V)
    assert count.forward_flops(plain("lstm"), T) == lstm
    products = 3 * 2 * D * D + gates + 2 * D * V
    pointwise = D * (2 + 2 * 4)
    rglru = T * (products + pointwise)
    assert count.forward_flops(plain("rglru"), T) == rglru
    mixer = plain("mamba").mixer("mamba")
    F, N, R = mixer.expand * D, mixer.state_width, -(-D // 16)
    products = 2 * (D * 2 * F + F * (R + 2 * N) + R * F + F * D + D * V)
    state = N * (2 + 2 + 2)  # dt A and B (dt x); h; y = C h
    mamba = T * (products + F * (state + 2 * mixer.conv_width))
    assert count.forward_flops(plain("mamba"), T) == mamba
    assert count.decode_flops(plain("lstm"), 9) == lstm / T
    assert count.decode_flops(plain("rglru"), 9) == rglru / T
    assert isinstance(count.decode_flops(plain("rglru"), 9), int)


def test_model_flops_of_a_convolution_before_each_mixer():
    T, layers = 30, 5
    bare, model = (language_model(HYBRID, layers, conv_width=n)[0] for n in (1, 3))
    more = count.forward_flops(model, T) - count.forward_flops(bare, T)
    assert more == T * layers * 2 * 3 * D
    assert count.decode_flops(model, 9) - count.decode_flops(bare, 9) == more / T


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_state_bytes(dtype, size):
    C, counters = 100, 8
    slot = lambda heads, K: 2 * heads * K * size + 8
    bytes_of = lambda name: count.state_bytes(plain(name, dtype=dtype), C)
    assert bytes_of("attention") == C * slot(2, 8) + counters
    assert bytes_of("attention_gqa") == C * slot(2, 4) + counters
    assert bytes_of("window") == 3 * slot(2, 8) + counters
    assert bytes_of("lstm") == 2 * D * 4
    assert bytes_of("gru") == D * 4
    assert bytes_of("rglru") == D * 4 + 3 * D * size
    model, _ = language_model(HYBRID, 5, dtype=dtype)
    parts = {name: bytes_of(name) for name in HYBRID}
    assert count.state_bytes(model, C) == sum(parts[name] for name in model.layers)


@pytest.mark.parametrize("tied", [True, False])
def test_params(tied):
    F, context = 24, 128
    model, _ = language_model(("lstm", "gru"), 5, tied=tied, position="learned")
    lstm = 2 * D * 4 * D + 4 * D
    gru = 2 * D * 3 * D + 3 * D + D
    block = 2 * D + 3 * D * F
    head = 0 if tied else V * D
    inner = 3 * lstm + 2 * gru + 5 * block + D + head
    tables = (V + context) * D
    want = {"params": inner + tables, "params_non_embedding": inner}
    assert count.params(model) == want
    made = jax.jit(model.initial_params)(0)
    assert sum(x.size for x in jax.tree.leaves(made)) == want["params"]


def test_fit_finds_the_nearest_width():
    build = lambda width: language_model(("lstm",), 2, mlp_width=width)[0]
    params = count.quantity("params", 128)
    sizes = np.array([params(build(width)) for width in range(1, 60)])
    for target in (sizes[40], sizes[20] + 30, sizes[20] + 60, sizes[0]):
        width, achieved = count.fit(build, "model.mlp_width", params, int(target))
        assert width == np.abs(sizes - target).argmin() + 1
        assert achieved == sizes[width - 1]
        assert achieved == pytest.approx(target, rel=0.01)


def test_fit_says_what_it_cannot_reach():
    build = lambda width: language_model(("lstm",), 2, mlp_width=width)[0]
    params = count.quantity("params", 128)
    with pytest.raises(ValueError, match=r"model.mlp_width=1 gives"):
        count.fit(build, "model.mlp_width", params, 100)
    with pytest.raises(ValueError, match="'speed'.*params"):
        count.quantity("speed", 128)


@pytest.mark.parametrize("name", ["flops", "state_bytes", "params_non_embedding"])
def test_other_quantities_are_fitted_by_a_state_or_a_width(name):
    def build(width):
        changes = {"mixers.lstm.hidden": width}
        return language_model(("lstm",), 2, **changes)[0]

    measure = count.quantity(name, 64)
    target = measure(build(50))
    assert count.fit(build, "hidden", measure, target) == (50, target)
