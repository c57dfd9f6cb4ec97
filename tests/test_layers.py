"""Products, norms and MLPs: exact gradients, and what a layer stores for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import layers, sequence
from tests.subjects import QUICK, close, values

B, T, D, F = 2, 3, 4, 7


def gradients(function, *arguments):
    """Of a random projection of the result, by every argument."""

    def total(*arguments):
        y = function(*arguments)
        return jnp.sum(y * values(*y.shape, seed=9))

    by = jax.grad(total, tuple(range(len(arguments))))
    return jax.jit(by, compiler_options=QUICK)(*arguments)


@pytest.mark.parametrize("backend", [*layers.KERNEL_GRADIENTS, "another"])
@pytest.mark.parametrize("shape", [(B, T, D, F), (B, T, F, D), (F, D), (B, T, 2, D, F)])
def test_a_products_gradients(monkeypatch, backend, shape):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    *rows, width, features = shape
    with jax.enable_x64(True):
        arguments = [values(*rows, width), values(width, features, seed=1)]
        arguments = [a.astype(np.float64) for a in arguments]
        np.testing.assert_array_equal(
            layers.product(*arguments), jnp.matmul(*arguments)
        )
        got = gradients(layers.product, *arguments)
        close(got, gradients(jnp.matmul, *arguments), 1e-14)


def stored(function, *arguments) -> list[tuple[int, ...]]:
    """Shapes of what the backward pass of `function` is given, largest first."""
    pull = jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], *arguments)
    return sorted((x.shape for x in jax.tree.leaves(pull)), key=np.prod)[::-1]


@pytest.mark.parametrize("name", layers.NORMS)
def test_a_norm_stores_its_input_alone(name):
    norm, seq = (
        layers.NORMS[name](),
        sequence.full(B, T)._replace(key=jax.random.key(0)),
    )
    x_BxTxD = values(B, T, D)
    params = norm.init(jax.random.key(0), x_BxTxD, seq)
    call = lambda params, x: norm.apply(params, x, seq)
    want = [] if name == "none" else [(B, T, D), (D,)]
    assert stored(call, params, x_BxTxD)[:2] == want


@pytest.mark.parametrize("kind", layers.ACTIVATIONS)
def test_an_mlp_stores_what_its_activation_is_given(kind):
    mlp = layers.MLP(kind, F)
    seq = sequence.full(B, T)._replace(key=jax.random.key(0))
    x_BxTxD = values(B, T, D)
    params = mlp.init(jax.random.key(0), x_BxTxD, seq)
    call = lambda params, x: mlp.apply(params, x, seq)
    wide = [s for s in stored(call, params, x_BxTxD) if s == (B, T, F)]
    assert len(wide) == (1 if kind.startswith("gelu") else 2)
