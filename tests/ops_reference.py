"""How a fast op is compared with its per-token definition in lm/ops/naive.py."""

import jax
import jax.numpy as jnp
import numpy as np

from lm import sequence
from tests.subjects import going_on, values

# The acceptance is 1e-6; in float64 every form is far better.
TOLERANCE = 1e-9


def normal(*shape: int, seed: int = 0):
    return values(*shape, seed=seed, dtype=np.float64)


def rows(length: int):
    """Three rows: one document; padding, resets, padding; a reset in the middle."""
    ids_BxT = np.ones((3, length), np.int32)
    ids_BxT[1, : length // 6] = 0
    ids_BxT[1, length // 2 :] = 2
    ids_BxT[1, length - length // 6 :] = 0
    ids_BxT[2, length // 2 :] = 2
    return going_on(ids_BxT, 3)


def both(op, arguments, seq):
    """(valid outputs, last state, gradients of a random projection of them)."""
    valid = lambda o: jnp.where(seq.valid.reshape(*seq.valid.shape, 1, 1), o, 0)

    def total(arguments):
        o, state = op(*arguments, seq)
        outputs = (valid(o), *jax.tree.leaves(state))
        weigh = lambda i, x: jnp.sum(x * normal(*x.shape, seed=70 + i))
        return sum(weigh(i, x) for i, x in enumerate(outputs)), outputs

    grad = jax.value_and_grad(total, has_aux=True)
    (_, outputs), grads = jax.jit(grad)(arguments)
    return outputs, grads


def agree(fast, naive, arguments, seq) -> None:
    """Outputs, the last state and all gradients, relative to the largest of each."""
    got, want = both(fast, arguments, seq), both(naive, arguments, seq)

    def check(got, want):
        assert np.isfinite(want).all()
        limit = TOLERANCE * max(np.abs(want).max(), 1e-300)
        np.testing.assert_allclose(got, want, rtol=0, atol=limit)

    jax.tree.map(check, got, want)


def isolated(op, arguments, tokens: int, document: int = 5) -> None:
    """The second document, and the state after it, do not feel the first, bitwise.

    Args:
      arguments: the first `tokens` of them are [B, T, ...].
    """
    length = arguments[0].shape[1]
    ids_BxT = np.repeat([[1] * document + [2] * (length - document)], 3, 0)
    seq = sequence.from_segments(ids_BxT)
    changed = [np.array(x) for x in arguments]
    for x in changed[:tokens]:
        x[:, :document] *= 30
    run = jax.jit(lambda arguments: op(*arguments, seq))
    (one, state), (two, other) = run(list(arguments)), run(changed)
    np.testing.assert_array_equal(one[:, document:], two[:, document:])
    jax.tree.map(np.testing.assert_array_equal, state, other)
    assert not np.array_equal(one[:, :document], two[:, :document])
