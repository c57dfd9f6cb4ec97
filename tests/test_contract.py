"""The contract of lm/mixers/base.py, for every registered mixer, without more code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import config as configs
from lm import model as models
from lm.mixers import MIXERS
from lm.ops import kv_cache
from tests import contract, test_parity_rnn
from tests.subjects import LAYER, LENGTH, QUICK, ROWS, VARIANTS, close, ragged, subject
from tests.toys import BROKEN, Leaky

# What a variant's fields cannot change: how the model wraps any mixer, and the oracle.
OF_THE_KIND = ("structure", "parity")
CASES = [(name, check) for name in MIXERS for check in contract.CHECKS] + [
    (name, check)
    for name in VARIANTS
    for check in contract.CHECKS
    if check not in OF_THE_KIND
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_contract(name, check):
    contract.CHECKS[check](name)


CHUNKED = [name for name in MIXERS if hasattr(MIXERS[name], "chunk")]


@pytest.mark.parametrize("name", CHUNKED)
def test_the_length_of_a_chunk_changes_nothing(name):
    alone, seq = subject(name), ragged()
    start = jax.tree.map(jnp.asarray, alone.warm())

    def all_of(chunk):
        mixer = alone.mixer.clone(chunk=chunk, parent=None)

        def total(params):
            carry = mixer.initial_carry(ROWS, LENGTH)
            rows = seq._replace(layer=jnp.int32(LAYER))
            variables = {"params": params}
            y_BxTxD, state, _ = mixer.apply(variables, alone.x(), rows, start, carry)
            y_BxTxD = jnp.where(seq.valid[..., None], y_BxTxD, 0)
            return jnp.sum(y_BxTxD * alone.x(seed=9)), (y_BxTxD, state)

        grad = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)
        return grad(alone.params)

    assert alone.mixer.chunk == 4
    close(all_of(16), all_of(4))


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Registers a mixer for one test, pinned in its ledger as Leaky is."""

    def register(kind, name):
        monkeypatch.setitem(MIXERS, name, kind)
        return name

    register(Leaky, "leaky")
    monkeypatch.setattr(contract, "LEDGER", tmp_path / "ledger.json")
    names = [kind.__name__.lower() for kind, _ in sum(BROKEN.values(), [])]
    contract.write_ledger({name: contract.born("leaky") for name in names})
    return register


def test_a_registered_class_is_all_that_a_mixer_needs(register, monkeypatch):
    name = register(Leaky, "leaky")
    monkeypatch.setitem(test_parity_rnn.PARITY, name, ("none", (print,)))
    for check in contract.CHECKS.values():
        check(name)
    keys = {"model.pattern": "leaky", "model.mixers.leaky.rate": "0.25"}
    config = configs.resolve(configs.load("configs/base.py", keys))
    assert models.build(config, 256).mixer("leaky").rate == 0.25


@pytest.mark.parametrize(
    ("check", "kind", "words"),
    [(check, *case) for check, cases in BROKEN.items() for case in cases],
)
def test_a_broken_mixer_is_turned_down(register, check, kind, words):
    name = register(kind, kind.__name__.lower())
    with pytest.raises((AssertionError, ValueError), match=words):
        contract.CHECKS[check](name)


def test_every_check_has_a_mixer_that_breaks_it():
    assert BROKEN.keys() == contract.CHECKS.keys()


@pytest.mark.parametrize("slots", [1, 3, 5, 8, 40])
def test_a_ring_slot_is_written_once(slots):
    rng = np.random.default_rng(slots)
    for _ in range(20):
        length, count = rng.integers(1, 30, 2)
        left, right = sorted(rng.integers(0, length + 1, 2))
        valid_1xT = ((np.arange(length) >= left) & (np.arange(length) < right))[None]
        index_1xT = count + np.cumsum(valid_1xT, 1) - 1
        slot_1xT = kv_cache.slots_of(jnp.array(index_1xT), jnp.array(valid_1xT), slots)
        kept = np.asarray(slot_1xT)[np.asarray(slot_1xT) < slots]
        assert len(set(kept.tolist())) == len(kept) == min(slots, right - left)
        newest = index_1xT[valid_1xT][-slots:] % slots
        np.testing.assert_array_equal(kept, newest)
