"""The model around the mixers: draws, layers, dtypes, learned positions, decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import loss, sequence
from lm.ops import rnn
from tests.subjects import (
    LENGTH,
    ROWS,
    VOCAB,
    WIDTH,
    apply,
    close,
    cut,
    form,
    initial,
    language_model,
    same,
    tokens,
    values,
)

HYBRID = ("rglru", "rglru", "window")
PATTERNS = [("attention",), ("lstm", "attention"), HYBRID, ("gru",)]


def by_layer(pattern, depth, **changes):
    """Parameters with one subtree a layer, and the names of the layers."""
    model, _ = language_model(pattern, depth, **changes)
    return model.unstack(initial(model)), model.layers


def test_arms_differ_in_their_mixers_alone():
    arms = [by_layer(pattern, 4) for pattern in PATTERNS]
    first, _ = arms[0]
    for params, names in arms[1:]:
        assert params.keys() == first.keys()
        for name, leaf in params.items():
            block = "block" in name
            rest = lambda tree: {k: v for k, v in tree.items() if k != "mixer"}
            if block:
                same(rest(leaf), rest(first[name]))
                assert set(leaf) == {"mixer", "mixer_norm", "mlp", "mlp_norm"}
            else:
                same(leaf, first[name])
        for j, name in enumerate(names):
            if name == "attention":
                block = f"prefix_block_{j}"
                same(params[block]["mixer"], first[block]["mixer"])


def test_no_two_draws_are_the_same():
    params, _ = by_layer(("rglru", "attention"), 5, tied=False, position="learned")
    model, _ = language_model(("rglru", "attention"), 5)
    other = model.unstack(initial(model, seed=1))
    drawn = [x for x in jax.tree.leaves((params, other)) if np.std(x) > 0]
    starts = {np.asarray(x).ravel()[:4].round(7).tobytes() for x in drawn}
    assert len(starts) == len(drawn) > 60


def test_a_narrower_mlp_is_a_prefix():
    for kind in ("swiglu", "gelu"):
        narrow, _ = by_layer(("gru",), 2, mlp=kind, mlp_width=24)
        wide, _ = by_layer(("gru",), 2, mlp=kind, mlp_width=37)
        for j in range(2):
            block = f"prefix_block_{j}"
            mlp = dict(wide[block]["mlp"])
            mlp["wo"] = {"kernel": mlp["wo"]["kernel"][:24]}
            for name in mlp.keys() - {"wo"}:
                mlp[name] = {"kernel": mlp[name]["kernel"][:, :24]}
            wide[block]["mlp"] = mlp
        same(narrow, wide)


@pytest.mark.parametrize("pattern", PATTERNS[1:3])
def test_a_shallower_model_is_a_prefix(pattern):
    shallow, _ = by_layer(pattern, 4)
    deep, _ = by_layer(pattern, 6)
    assert len(deep) == len(shallow) + 2
    same(shallow, {name: deep[name] for name in shallow})


def test_dtypes_of_states_and_logits():
    pattern = ("attention", "lstm", "rglru", "gru")
    for dtype in ("float32", "bfloat16"):
        model, _ = language_model(pattern, 4, dtype=dtype)
        params = initial(model)
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        seq = sequence.full(ROWS, LENGTH)
        logits, state = apply(model, params, tokens(), seq, LENGTH)
        assert (logits.dtype, logits.shape) == (jnp.float32, (ROWS, LENGTH, VOCAB))
        kv, lstm, rglru, gru = state["units"]
        buffers = (kv["key"], kv["value"], rglru["conv"])
        assert {x.dtype for x in buffers} == {jnp.dtype(dtype)}
        recurrent = {x.dtype for x in (*lstm, rglru["h"], gru)}
        assert recurrent == {jnp.dtype("float32")}
        assert form(state) == form(model.initial_state(ROWS, LENGTH))
        if dtype == "float32":
            exact = logits
    assert 1e-4 < np.abs(logits - exact).max() < 0.3


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_a_partial_repeat_is_the_tail(depth):
    model, _ = language_model(HYBRID, depth)
    assert model.layers == (HYBRID * 2)[:depth]
    assert len(model.tail) == depth % 3
    params, seq = initial(model), sequence.full(ROWS, LENGTH)
    logits, state = apply(model, params, tokens(), seq, LENGTH)
    unrolled = apply(model.unrolled(), model.unstack(params), tokens(), seq, LENGTH)
    close(unrolled[0], logits, 1e-6)
    scanned = [jax.tree.map(lambda x: x[0], s) for s in state["units"]]
    close(list(unrolled[1]["prefix"]), [*scanned, *state["tail"]], 1e-6)


def test_the_layers_of_the_scan_are_traced_once(monkeypatch):
    model, _ = language_model(("lstm",), 20)
    params, seq = initial(model), sequence.full(ROWS, LENGTH)
    scan, calls = rnn.scan, []
    monkeypatch.setattr(rnn, "scan", lambda *a, **k: calls.append(1) or scan(*a, **k))
    apply(model, params, tokens(), seq, LENGTH)
    assert len(calls) == 1


def test_learned_positions_restart_with_each_document():
    pattern = ("attention_plain",)
    model, config = language_model(pattern, 2, position="learned", norm="layernorm")
    params = initial(model)
    assert params["positions_embedding"].shape[0] == config.data.context
    assert "positions_embedding" not in initial(language_model(pattern, 2)[0])
    packed = sequence.from_segments(np.repeat([[1] * 5 + [2] * 8], ROWS, 0))
    both, _ = apply(model, params, tokens(), packed)
    for part in (slice(0, 5), slice(5, LENGTH)):
        piece = tokens()[:, part]
        alone, _ = apply(model, params, piece, sequence.full(*piece.shape))
        close(both[:, part], alone)
    table = params["positions_embedding"].at[7].add(values(WIDTH))
    moved, _ = apply(model, params | {"positions_embedding": table}, tokens(), packed)
    changed_T = np.abs(moved - both).max((0, 2)) > 1e-4
    np.testing.assert_array_equal(np.flatnonzero(changed_T), [12])


def test_a_tied_head_is_the_embedding():
    tied, _ = language_model(("gru",), 1)
    free, _ = language_model(("gru",), 1, tied=False)
    params = initial(free)
    assert "head_kernel" not in initial(tied)
    head = params.pop("head_kernel")
    seq = sequence.full(ROWS, LENGTH)
    want, _ = apply(tied, params, tokens(), seq)
    copied = params | {"head_kernel": params["embedding"]}
    same(apply(free, copied, tokens(), seq)[0], want)
    other, _ = apply(free, params | {"head_kernel": head}, tokens(), seq)
    assert np.abs(other - want).max() > 0.1


DECODED = [
    *[("attention",), ("window",), ("lstm",), ("gru",), ("rglru",), ("attention_gqa",)],
    *[("lstm", "attention"), HYBRID],
]


@pytest.mark.parametrize("pattern", DECODED)
def test_decoding_is_the_full_forward(pattern):
    """Ragged prompts, then single steps, by one leaf a layer; full: the scan."""
    model, _ = language_model(pattern, 2 * len(pattern) + len(pattern) // 2)
    params = initial(model)
    unrolled, leaves = model.unrolled(), model.unstack(params)
    full = sequence.full(ROWS, LENGTH)
    want, _ = apply(model, params, tokens(), full)
    rows, length_B = np.arange(ROWS), np.array([3, 6, 1])
    ids_BxT = (np.arange(6) < length_B[:, None]).astype(np.int32)
    prompt = sequence.from_segments(ids_BxT)
    logits, state = apply(unrolled, leaves, tokens()[:, :6], prompt, LENGTH)
    close(logits[ids_BxT > 0], want[:, :6][ids_BxT > 0])
    step = jax.jit(lambda *args: unrolled.apply({"params": leaves}, *args))
    one = cut(sequence.full(ROWS, 2), 1, 2)
    for t in range(LENGTH - 6):
        at = length_B + t
        seq = one._replace(positions=at[:, None].astype(np.int32))
        logits, state = step(tokens()[rows, at][:, None], seq, state)
        close(logits[:, 0], want[rows, at])


def test_nats_are_log_probabilities():
    logits = np.random.default_rng(0).normal(0, 100, (2, 3, 5)).astype(np.float32)
    targets = np.array([[0, 1, 2], [3, 4, 0]])
    wide = logits.astype(np.float64)
    log_sum = np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1)) + wide.max(-1)
    picked = np.take_along_axis(wide, targets[..., None], -1)[..., 0]
    close(loss.nats(logits, targets), log_sum - picked, 1e-6)
    weights = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    total, weight = loss.summed(logits, targets, weights)
    close(total, ((log_sum - picked) * weights).sum(), 1e-6)
    assert weight == 3
