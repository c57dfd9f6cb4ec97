"""Truncated BPTT: chunks are the whole, and gradients end at their borders."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from lm import count, optim, step
from lm.data import Batch, TrainStreams, stream_batches
from lm.mixers import MIXERS
from lm.program import program
from lm.sequence import Sequence
from tests import runs
from tests.subjects import QUICK, VOCAB, close, language_model, same, values

ROWS, CONTEXT, CHUNKS = 2, 8, 3
LENGTH = ROWS * CONTEXT * CHUNKS + 1
# A cache holds one chunk, so attention sees all of documents up to that long.
BORDERS = {True: [0, 5, 12, 20, 27, 34, 42], False: [0, 21, 37]}
PATTERNS = [*((name,) for name in MIXERS), ("lstm", "attention", "window")]


def corpus(text_N, documents=(0,)):
    """A corpus with one split."""
    return SimpleNamespace(
        tokens=lambda split: text_N,
        documents=lambda split: np.asarray(documents, np.int64),
        opened=lambda split, token_B: np.searchsorted(documents, token_B, "right"),
    )


def text(length: int = LENGTH, seed: int = 0):
    return np.random.default_rng(seed).integers(0, VOCAB, length, np.uint8)


def borders(model) -> list[int]:
    """Documents of `text` that a model sees whole."""
    return BORDERS[any(model.mixer(name).state_grows for name in model.layers)]


@functools.cache
def case(pattern: tuple[str, ...], **changes):
    """(model, config, TrainState) with train.state = "carry" and ROWS rows."""
    model, config = language_model(pattern, mlp="none", **changes)
    keys = config.to_dict()
    keys["train"] |= {"state": "carry", "batch_tokens": ROWS * CONTEXT}
    keys["data"]["context"] = CONTEXT
    config = type(config)(keys)
    # Any parameters will do, and these take no compilation.
    draw = lambda x: 0.3 * values(*x.shape, seed=x.size)
    params = jax.tree.map(draw, count.abstract_params(model))
    zero = lambda x: np.zeros(x.shape, x.dtype)
    make = functools.partial(step.initial_state, model, config)
    state = jax.tree.map(zero, jax.eval_shape(make, 0))
    carried = jax.device_get(model.initial_state(ROWS, CONTEXT))
    return model, config, state._replace(params=params, carried=carried)


def updates(model, config, micro_batches: int = 1):
    """jitted (state, batch) -> (state, metrics), an update that moves no parameter."""
    run = functools.partial(step.train_step, model, config, micro_batches)
    run = jax.jit(run, compiler_options=QUICK)
    hyper = optim.hyper(config, 100, 0)
    hyper = hyper._replace(lr=np.float32(0), clip=np.float32(1e9))
    return lambda state, batch: jax.device_get(run(state, batch, hyper))


def trained(update, b1: float, state, batches):
    """[(state before, loss, gradient, carried)] of one update after the other."""
    found = []
    for batch in batches:
        before, (state, metrics) = state, update(state, batch)
        grads = jax.tree.map(
            lambda m, n: (m - b1 * n) / (1 - b1),
            state.optimizer.mu,
            before.optimizer.mu,
        )
        assert metrics["state_max"] == largest(state.carried)
        found.append((before, metrics["loss"], grads, state.carried))
    return found


def largest(carried) -> float:
    floats = [x for x in jax.tree.leaves(carried) if x.dtype.kind == "f"]
    return max(np.abs(x).max(initial=0) for x in floats)


def joined(batches, axis: int = 0) -> Batch:
    """Batches whose rows go on (axis 1), or of other rows (axis 0), as one."""
    join = lambda parts: np.concatenate(parts, axis)
    fields = [join([b[i] for b in batches]) for i in range(3)]
    seq = [join([b.seq[i] for b in batches]) for i in range(4)]
    return Batch(*fields, Sequence(*seq))


def relative(got, want, tolerance: float) -> None:
    """Gradients agree, relative to the largest entry of all."""
    want = jax.device_get(want)
    most = max(np.abs(g).max() for g in jax.tree.leaves(want))
    scaled = lambda tree: jax.tree.map(lambda g: g / most, tree)
    close(scaled(got), scaled(want), tolerance)


@pytest.mark.parametrize("pattern", PATTERNS, ids="-".join)
def test_chunks_are_the_whole_and_documents_are_alone(pattern):
    """And each gradient is that of its chunk's loss alone, by a finite difference."""
    model, config, state = case(pattern)
    stream = TrainStreams(corpus(text(), borders(model)), CONTEXT, ROWS, seed=3)
    assert stream.steps_per_epoch == CHUNKS
    batches = [stream(k) for k in range(CHUNKS)]
    assert not batches[1].seq.reset[:, 0].all()
    update = updates(model, config)
    run = jax.jit(functools.partial(step.forward, model), compiler_options=QUICK)
    empty = jax.device_get(model.initial_state(ROWS, CHUNKS * CONTEXT))

    whole = joined(batches, axis=1)
    nats_BxT = np.asarray(run(state.params, whole, empty)[0])
    for k, (before, loss, grads, _) in enumerate(
        trained(update, config.optim.b1, state, batches)
    ):
        here = slice(k * CONTEXT, (k + 1) * CONTEXT)
        want = nats_BxT[:, here].sum() / whole.weights[:, here].sum()
        np.testing.assert_allclose(loss, want, 1e-5)
        norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads)))
        ends = []
        for far in (5e-4, -5e-4):
            move = lambda p, g, far=far / norm: p + far * g
            params = jax.tree.map(move, before.params, grads)
            ends.append(update(before._replace(params=params), batches[k])[1]["loss"])
        np.testing.assert_allclose((ends[0] - ends[1]) / 1e-3, norm, 5e-3)

    # The same compiled function; row 1 reads the same text with another document 3.
    lengths = [3, 8, 20, 7, 24, 2, 5, 16, 8, 4]
    starts = np.cumsum([0, *lengths])
    text_N = text(starts[-1] + 1, seed=1)
    other_N, inside = text_N.copy(), np.zeros(starts[-1], bool)
    other_N[starts[3] : starts[4]] = (other_N[starts[3] : starts[4]] + 1) % VOCAB
    inside[starts[3] : starts[4] - 1] = True  # the target that opens another has none

    def nats(texts, documents):
        """Of each token of two texts but the last, in chunks."""
        carried, parts, chunk = empty, [], CHUNKS * CONTEXT
        read = lambda text_N: stream_batches(
            corpus(text_N, documents), "train", chunk, 1
        )
        for batch in map(joined, zip(*map(read, texts), strict=True)):
            nats_BxT, carried = run(state.params, batch, carried)
            parts.append(np.asarray(nats_BxT)[:, batch.seq.valid[0]])
        return np.concatenate(parts, axis=1)

    together, changed = nats([text_N, other_N], starts)
    for first, end in zip(starts, starts[1:], strict=False):
        alone = nats([text_N[first : end + 1]] * 2, [0])[0, :-1]
        np.testing.assert_allclose(together[first : end - 1], alone, 1e-5, 1e-5)
    assert (changed[inside] != together[inside]).all()
    same(changed[~inside], together[~inside])


def test_micro_batches_carry_the_same_rows():
    """Three layers of two names: the state has stacked layers and a tail."""
    model, config, state = case(("lstm", "attention"), depth=3)
    assert model.repeats == 1 and model.tail
    rows = 4
    state = state._replace(carried=model.initial_state(rows, CONTEXT))
    source = corpus(text(rows * CONTEXT * CHUNKS + 1), borders(model))
    stream = TrainStreams(source, CONTEXT, rows, seed=1)
    batches = [stream(k) for k in range(CHUNKS)]
    one, two = (
        trained(updates(model, config, n), config.optim.b1, state, batches)
        for n in (1, 2)
    )
    for (_, loss, grads, carried), (_, *want) in zip(two, one, strict=True):
        np.testing.assert_allclose(loss, want[0], 1e-5)
        relative(grads, want[1], 1e-5)
        close(carried, want[2])


def test_an_lstm_is_trained_as_torch_does_with_detach():
    model, config, state = case(("lstm",), tied=False)
    stream = TrainStreams(corpus(text()), CONTEXT, ROWS, seed=1)
    batches = [stream(k) for k in range(CHUNKS)]
    tensor = lambda x: torch.tensor(np.asarray(x), requires_grad=True)
    p = jax.tree.map(tensor, state.params)
    block = p["units"]["block_0"]
    mixer = block["mixer"]
    module = torch.nn.LSTM(model.width, model.width, batch_first=True)
    weights = {
        "weight_ih_l0": mixer["input"]["kernel"][0].T,
        "weight_hh_l0": mixer["recurrent_kernel"][0].T,
        "bias_ih_l0": mixer["bias"][0],
        "bias_hh_l0": torch.zeros(4 * model.width),
    }

    def norm(x, scale):
        square = x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(square + model.norm_eps) * scale

    hidden = None
    found = trained(updates(model, config), config.optim.b1, state, batches)
    for batch, (_, loss, grads, _) in zip(batches, found, strict=True):
        if batch.seq.reset[:, 0].any():
            assert batch.seq.reset[:, 0].all() and hidden is None
        assert not batch.seq.reset[:, 1:].any()
        for leaf in jax.tree.leaves(p):
            leaf.grad = None
        x = p["embedding"][torch.from_numpy(batch.tokens).long()]
        y = norm(x, block["mixer_norm"]["scale"][0])
        y, hidden = torch.func.functional_call(module, weights, (y, hidden))
        logits = norm(x + y, p["norm"]["scale"]) @ p["head_kernel"].T
        targets = torch.from_numpy(batch.targets).long().reshape(-1)
        want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        want.backward(retain_graph=True)
        hidden = tuple(h.detach() for h in hidden)
        np.testing.assert_allclose(loss, want.item(), 1e-5)
        relative(grads, jax.tree.map(lambda x: x.grad.numpy(), p), 1e-5)


def test_a_state_that_is_lost_shows_in_the_metrics_before_the_loss_does():
    """A cell of inf has a hidden state of 1 at most."""
    model, config, state = case(("lstm",))
    stream = TrainStreams(corpus(text()), CONTEXT, ROWS, seed=0)
    cell, hidden = jax.tree.leaves(state.carried)
    lost = [np.full_like(cell, np.inf), hidden]
    lost = jax.tree.unflatten(jax.tree.structure(state.carried), lost)
    batch = next(b for b in map(stream, range(CHUNKS)) if not b.seq.reset[:, 0].any())
    _, metrics = updates(model, config)(state._replace(carried=lost), batch)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["state_max"])


def test_only_a_carried_state_is_part_of_the_state_of_training():
    fresh, carried = (
        program(runs.config(("attention",), train__state=name), 256).abstract
        for name in ("reset", "carry")
    )
    assert fresh.carried == ()
    (cache,) = carried.carried["units"]
    assert cache["key"].shape == (2, 4, 4, 16, 4)  # layers, rows, heads, context, width
    without = carried._replace(carried=())
    assert jax.tree.leaves(without) == jax.tree.leaves(fresh)
