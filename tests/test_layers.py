"""Products, norms and MLPs: exact gradients, and what a layer stores for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import layers, sequence
from lm.ops import deferred
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


PLAIN = {
    "swiglu": lambda gate, h: jax.nn.silu(gate) * h,
    "geglu": lambda gate, h: layers.gelu(gate) * h,
}


@pytest.mark.parametrize("backend", ["cpu", "another"])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_gated_activations_gradients(monkeypatch, backend, kind):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.enable_x64(True):
        arguments = [4 * values(B, T, F, seed=s).astype(np.float64) for s in (0, 1)]
        got, want = (f[kind](*arguments) for f in (layers.ACTIVATIONS, PLAIN))
        np.testing.assert_array_equal(got, want)
        got, want = (
            gradients(f[kind], *arguments) for f in (layers.ACTIVATIONS, PLAIN)
        )
        close(got, want, 1e-14)


@pytest.mark.parametrize("backend", ["cpu", "another"])
def test_the_gradients_of_rows_of_a_table(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    index = np.array([[3, 0, 3], [6, 3, 0]])
    table_VxD = values(7, D)
    got = gradients(lambda table: deferred.looked_up(table, index), table_VxD)
    close(got, gradients(lambda table: table[index], table_VxD), 0)


def temporaries(gradient, *arguments) -> int:
    """Bytes of them, the gradients among them."""
    total = lambda *a: sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient(*a)))
    compiled = jax.jit(total).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_a_gated_mlp_keeps_three_arrays_until_its_backward_pass():
    """gate, h and their product, which the next kernel's gradient is made of."""
    N, D, F, L = 512, 16, 1024, 8

    def loss(kernels, x_NxD):
        for gate_DxF, up_DxF, down_FxD in kernels:
            inputs = x_NxD @ gate_DxF, x_NxD @ up_DxF
            x_NxD += layers.ACTIVATIONS["swiglu"](*inputs) @ down_FxD
        return jnp.sum(jnp.square(x_NxD))

    kernels = [[values(*s) for s in ((D, F), (D, F), (F, D))]] * L
    arrays = temporaries(jax.grad(loss), kernels, values(N, D)) / (4 * N * F)
    assert 3 * L - 1 < arrays < 3 * L + 4


def test_a_tables_gradient_takes_no_room_before_it_is_due():
    V, N, D, K = 65_536, 64, 16, 2048
    index = np.arange(N)

    def loss(table_VxD):
        x_NxD = deferred.looked_up(table_VxD, index)
        wide_NxDxK = jnp.exp(x_NxD[..., None] * values(K))
        return jnp.sum(jnp.square(wide_NxDxK @ values(K)))

    table, wide = 4 * V * D, 4 * N * D * K
    # Two wide arrays at once, and the table's only after one of them is gone.
    assert temporaries(jax.grad(loss), values(V, D)) < 2 * wide + table / 2
