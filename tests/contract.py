"""The contract of a mixer: each check takes its name and raises where it is broken.

`python -m tests.contract` writes tests/ledger.json anew, after a change of parameters
that is meant; read its diff.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from lm import loss, optim, parameters, sequence
from lm.mixers import MIXERS
from lm.sequence import Sequence
from tests.contract_numerics import precision, stability
from tests.subjects import (
    LAYER,
    LAYERS,
    LENGTH,
    PREFIX,
    QUICK,
    ROWS,
    VARIANTS,
    WIDTH,
    Subject,
    close,
    cut,
    form,
    going_on,
    language_model,
    ragged,
    same,
    spec,
    subject,
    tokens,
)

LEDGER = Path(__file__).parent / "ledger.json"


def causality(name: str) -> None:
    """a. y_t depends on itself and its past in its document, and on nothing else."""
    mixer, seq = subject(name), ragged()
    slope_TxBxSxD = mixer.jacobian(mixer.params, mixer.x(), seq, mixer.warm())
    slope_BxTxS = np.abs(slope_TxBxSxD).max(-1).swapaxes(0, 1)
    ids, past_TxS = seq.segment_ids, np.tri(LENGTH, dtype=bool)
    seen_BxTxS = past_TxS & (ids[:, :, None] == ids[:, None]) & seq.valid[:, None]
    valid_BxTx1 = seq.valid[..., None]
    assert not slope_BxTxS[valid_BxTx1 & ~seen_BxTxS].any(), "it looks ahead"
    own = np.eye(LENGTH, dtype=bool) & seen_BxTxS
    assert slope_BxTxS[own].all(), "it ignores the current token"
    before_BxTxS = seen_BxTxS & ~own
    reach_BxT = np.where(before_BxTxS, slope_BxTxS, 0).max(-1)
    assert reach_BxT[before_BxTxS.any(-1)].all(), "it ignores the past"


def _pieces(mixer: Subject, x_BxTxD, seq: Sequence, state, cuts):
    """Outputs [B, T, D] and the last state of calls over consecutive pieces."""
    outputs = []
    for first, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        y_BxTxD, state = mixer(x_BxTxD[:, first:end], cut(seq, first, end), state)
        outputs.append(y_BxTxD)
    return np.concatenate(outputs, 1), state


def steps(name: str) -> None:
    """b. T tokens at once are T single steps, and capacity 0 is an empty cache."""
    mixer, seq = subject(name), ragged()
    x_BxTxD, start = mixer.x(), mixer.warm()
    y_BxTxD, state = mixer(x_BxTxD, seq, start)
    stepped, end = _pieces(mixer, x_BxTxD, seq, start, range(1, LENGTH))
    close(stepped[seq.valid], y_BxTxD[seq.valid])
    close(end, state)
    fresh = sequence.full(ROWS, LENGTH)
    stepped, _ = _pieces(mixer, x_BxTxD, fresh, mixer.empty(), range(1, LENGTH))
    close(mixer(x_BxTxD, fresh, mixer.empty(0))[0], stepped)


def splits(name: str) -> None:
    """c. Any split k | T - k, through padding and a reset, is the whole."""
    mixer, seq = subject(name), ragged()
    x_BxTxD, start = mixer.x(), mixer.warm()
    y_BxTxD, state = mixer(x_BxTxD, seq, start)
    for k in range(1, LENGTH):
        pieces, end = _pieces(mixer, x_BxTxD, seq, start, [k])
        close(pieces[seq.valid], y_BxTxD[seq.valid])
        close(end, state)


def documents(name: str) -> None:
    """d. A packed document is the document alone, bitwise free of the one before."""
    mixer, first = subject(name), 5
    ids_BxT = np.repeat([[1] * first + [2] * (LENGTH - first)], ROWS, 0)
    seq = sequence.from_segments(ids_BxT)
    x_BxTxD, next_Bx1xD = mixer.x(), mixer.x(1, seed=3)
    more = going_on(np.ones((ROWS, 1), np.int32), LENGTH - first)

    def last(x_BxTxD, start):
        y_BxTxD, state = mixer(x_BxTxD, seq, start)
        return y_BxTxD, mixer(next_Bx1xD, more, state)[0]

    y_BxTxD, after = last(x_BxTxD, mixer.warm())
    one, _ = mixer(x_BxTxD[:, :first], sequence.full(ROWS, first), mixer.empty())
    rest = sequence.full(ROWS, LENGTH - first)
    two, state = mixer(x_BxTxD[:, first:], rest, mixer.empty())
    close(y_BxTxD, np.concatenate([one, two], 1))
    close(after, mixer(next_Bx1xD, more, state)[0])
    changed = x_BxTxD.copy()
    changed[:, :first] = 30 * mixer.x(first, seed=4)
    y_changed, after_changed = last(changed, mixer.warm(seed=5))
    same(y_changed[:, first:], y_BxTxD[:, first:])
    same(after_changed, after)


@functools.cache
def born(name: str) -> dict:
    """{leaf: [shape, mean, std, group]} of a mixer as LM.init makes it in LAYER."""
    model, _ = language_model((name,), LAYERS, mlp="none")
    params = model.unstack(jax.jit(model.initial_params, compiler_options=QUICK)(0))
    for layer in (LAYER, LAYERS - 1):
        alone = subject(name).initial_params(layer)
        close(params[f"prefix_block_{layer}"]["mixer"], alone, 1e-6)
    block = f"prefix_block_{LAYER}"
    leaves = {block: {"mixer": params[block]["mixer"]}}
    trees = (parameters.paths(leaves), leaves, optim.groups(leaves))
    rows = zip(*map(jax.tree.leaves, trees), strict=True)
    number = lambda x: float(np.round(np.float64(x), 7))
    statistics = lambda x: (list(x.shape), number(x.mean()), number(x.std()))
    return {
        path.removeprefix(f"{block}/mixer/"): [*statistics(leaf), group]
        for path, leaf, group in rows
    }


def ledger(name: str) -> None:
    """g. LM.init draws what the mixer draws alone, and what tests/ledger.json says."""
    pinned, found = json.loads(LEDGER.read_text()), born(name)
    assert name in pinned, f"{LEDGER} lacks {name}: run python -m tests.contract"
    assert found.keys() == pinned[name].keys()
    for leaf, (shape, mean, std, group) in pinned[name].items():
        got = found[leaf]
        assert [got[0], got[3]] == [shape, group], leaf
        np.testing.assert_allclose(got[1:3], [mean, std], 1e-5, 1e-6, err_msg=leaf)


def growth(name: str) -> None:
    """h. Bytes of the state do not follow the capacity, or linearly where declared."""
    mixer = subject(name)

    def size(capacity: int) -> int:
        state = jax.eval_shape(lambda: mixer.mixer.initial_state(1, capacity))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    one, two, four = size(64), size(128), size(256)
    if mixer.mixer.state_grows:
        assert four - two == 2 * (two - one) > 0, "its state is not linear"
    else:
        assert one == two == four, "its state grows, and state_grows is False"
    window = getattr(mixer.mixer, "window", None)
    if window is not None:
        assert size(window - 2) < size(window - 1) == size(10 * window)
    for length in (1, PREFIX, LENGTH):
        seq = sequence.full(ROWS, length)
        _, state = mixer(mixer.x(length), seq, mixer.empty())
        assert form(state) == form(mixer.empty()), "a call changes the state's form"


def isolation(name: str) -> None:
    """i. Rows do not touch each other, and padding on either side changes nothing."""
    mixer, seq, length = subject(name), ragged(), 8
    x_BxTxD, start = mixer.x(), mixer.warm()
    other_BxTxD, other = x_BxTxD.copy(), mixer.warm(seed=5)
    other_BxTxD[1] = 30 * x_BxTxD[0]
    other = jax.tree.map(lambda a, b: np.stack([a[0], b[1], a[2]]), start, other)
    rows = lambda tree: jax.tree.map(lambda x: x[[0, 2]], tree)
    want = mixer(x_BxTxD, seq, start)
    same(rows(mixer(other_BxTxD, seq, other)), rows(want))

    at = np.arange(LENGTH) - np.array([[0], [2], [LENGTH - length]])
    valid_BxT = (at >= 0) & (at < length)
    padded_BxTxD = 100 * mixer.x(seed=8)
    padded_BxTxD[valid_BxT] = x_BxTxD[:, :length].reshape(-1, WIDTH)
    y_BxTxD, state = mixer(padded_BxTxD, going_on(valid_BxT.astype(np.int32)), start)
    unpadded = going_on(np.ones((ROWS, length), np.int32))
    want, end = mixer(x_BxTxD[:, :length], unpadded, start)
    close(y_BxTxD[valid_BxT].reshape(want.shape), want, 1e-6)
    close(state, end, 1e-6)
    nothing = going_on(np.zeros((ROWS, LENGTH), np.int32))
    y_BxTxD, state = mixer(padded_BxTxD, nothing, start)
    assert np.isfinite(y_BxTxD).all()
    same(state, start)


def structure(name: str) -> None:
    """j. Remat and the loop over layers instead of the scan change nothing, bitwise.

    Two passes of XLA are off. Fusion contracts multiply-adds of the rematerialised pass
    in other places, and leaves differ by up to 6e-7; transpose-folding gives a product
    another layout, and with it another order of its sums, than its second computation.
    """
    seq = sequence.from_segments(ragged().segment_ids)
    model, _ = language_model((name,), 2, mlp="none")
    params = jax.jit(model.initial_params)(0)

    def all_of(model, params, unstack=lambda grads: grads):
        def nats(params):
            state = model.initial_state(ROWS, 0)
            logits, _ = model.apply({"params": params}, tokens(), seq, state)
            return loss.summed(logits, tokens(seed=1), seq.valid)[0], logits

        grad = jax.value_and_grad(nats, has_aux=True)
        options = QUICK | {"xla_disable_hlo_passes": "fusion,transpose-folding"}
        (_, logits), grads = jax.jit(grad, compiler_options=options)(params)
        return logits, unstack(grads)

    want = all_of(model, params, model.unstack)
    for remat in ("full", "dots"):
        same(all_of(model.clone(remat=remat), params, model.unstack), want)
    same(all_of(model.unrolled(), model.unstack(params)), want)


def parity(name: str) -> None:
    """k. An independent reference agrees: see tests/oracles.py."""
    from tests import oracles

    _, tests = oracles.parity().get(spec(name)["kind"], (None, ()))
    assert tests, f"{name} has no parity test in a PARITY"


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        *(causality, steps, splits, documents, precision, stability),
        *(ledger, growth, isolation, structure, parity),
    )
}


def write_ledger(entries: dict[str, dict]) -> None:
    """LEDGER from {mixer: what `born` says of it}, one line a leaf."""
    line = lambda leaf, row: f"    {json.dumps(leaf)}: {json.dumps(row)}"
    block = lambda leaves: ",\n".join(line(*item) for item in leaves.items())
    blocks = [f'  "{name}": {{\n{block(x)}\n  }}' for name, x in entries.items()]
    LEDGER.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    write_ledger({name: born(name) for name in (*MIXERS, *VARIANTS)})
