"""How a mixer is compared with an independent implementation, and which one it is."""

import importlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lm import sequence
from lm.mixers import MIXERS
from tests.subjects import values

torch.set_num_threads(1)
B, T, D = 2, 13, 16
TOLERANCE = 1e-5  # of the largest value, in float32

# Largest relative error of each mixer, of the comparisons that this process made.
ERRORS: dict[str, float] = {}


def filled(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a module, by name, after drawing them all anew."""
    named = dict(module.named_parameters())
    with torch.no_grad():
        for i, p in enumerate(named.values()):
            p.copy_(torch.from_numpy(0.3 * values(*p.shape, seed=100 + i)))
    return named


def compare(
    kind: str,
    fields: dict,
    reference,
    named,
    ours,
    state=None,
    *,
    tolerance: float = TOLERANCE,
    layers: int = 1,
    layer: int = 0,
) -> None:
    """y, the last state and all gradients agree within `tolerance` of the largest.

    In the dtype of the torch parameters: float32, or float64 after `module.double()`.

    Args:
      reference: (x, *leaves of the state) -> (y, *leaves of the last state), in torch.
      named: torch parameters; `ours` makes our tree of a dict of arrays, linearly, so
        that it maps their gradients too.
      state: our initial state, where the reference takes one.
      layers, layer: number of layers of the model, and which of them this one is.
    """
    dtype = next(iter(named.values())).detach().numpy().dtype
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x).astype(dtype), tree)
    weights = lambda shape: values(*shape, seed=9).astype(dtype)
    x_BxTxD = values(B, T, D, seed=1).astype(dtype)
    given, form = jax.tree.flatten(cast(state))

    inputs = [torch.tensor(a, requires_grad=True) for a in (x_BxTxD, *given)]
    outputs = reference(*inputs)
    sum((x * torch.from_numpy(weights(x.shape))).sum() for x in outputs).backward()
    array = lambda tensors: {k: t.detach().numpy() for k, t in tensors.items()}
    params = ours(array(named))
    want_params = ours(array({k: p.grad for k, p in named.items()}))

    with jax.enable_x64(dtype == np.float64):
        mixer = MIXERS[kind](D, layers, jnp.dtype(dtype), **fields)

        @jax.jit
        def run(params, x_BxTxD, given):
            start = jax.tree.unflatten(form, given) if given else None
            start = mixer.initial_state(B, 0) if start is None else start
            seq = sequence.full(B, T, start=int(bool(given)))
            seq = seq._replace(layer=jnp.int32(layer))
            carry = mixer.initial_carry(B, T)
            y_BxTxD, state, _ = mixer.apply(
                {"params": params}, x_BxTxD, seq, start, carry
            )
            outputs = (y_BxTxD, *(jax.tree.leaves(state) if given else ()))
            return sum(jnp.sum(x * weights(x.shape)) for x in outputs), outputs

        grad = jax.value_and_grad(run, (0, 1, 2), has_aux=True)
        (_, got), (got_params, *got_inputs) = grad(params, x_BxTxD, given)
        got, got_params, got_inputs = jax.tree.map(
            np.asarray, (list(got), got_params, jax.tree.leaves(got_inputs))
        )

    def check(got, want):
        size = np.abs(want).max()
        assert size > 0, "the reference gives zeros"
        error = float(np.abs(got - want).max() / size)
        ERRORS[kind] = max(ERRORS.get(kind, 0.0), error)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * size)

    jax.tree.map(check, got, [x.detach().numpy() for x in outputs])
    jax.tree.map(check, got_params, want_params)
    jax.tree.map(check, got_inputs, [x.grad.numpy() for x in inputs])


def compare_numpy(
    kind: str, fields: dict, reference, layers: int = 1, layer: int = 0
) -> None:
    """Outputs, and slopes along random directions, of a NumPy form in float64.

    Outputs agree within 1e-9 of the largest; slopes in every parameter and in x, by
    central differences of the reference, within 1e-6.

    Args:
      reference: (params as a tree of float64 arrays, x_BxTxD) -> y_BxTxD, in NumPy.
    """
    with jax.enable_x64(True):
        mixer = MIXERS[kind](D, layers, jnp.float64, **fields)
        seq = sequence.full(B, T)._replace(layer=jnp.int32(layer))
        state, carry = mixer.initial_state(B, 0), mixer.initial_carry(B, T)
        x_BxTxD = values(B, T, D, seed=1, dtype=np.float64)
        key = jax.random.key(0)
        params = mixer.init(key, x_BxTxD, seq._replace(key=key), state, carry)
        noise = lambda p: (
            np.asarray(p, np.float64)
            + 0.3 * values(*p.shape, seed=p.size, dtype=np.float64)
        )
        params = jax.tree.map(noise, params["params"])

        @jax.jit
        def run(params, x_BxTxD):
            variables = {"params": params}
            return mixer.apply(variables, x_BxTxD, seq, state, carry)[0]

        got, want = np.asarray(run(params, x_BxTxD)), reference(params, x_BxTxD)
        size = np.abs(want).max()
        ERRORS[kind] = max(
            ERRORS.get(kind, 0.0), float(np.abs(got - want).max() / size)
        )
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * size)

        leaves, form = jax.tree.flatten((params, x_BxTxD))
        weights = values(B, T, D, seed=9, dtype=np.float64)
        total = lambda leaves: np.sum(
            weights * reference(*jax.tree.unflatten(form, leaves))
        )
        loss = lambda params, x: jnp.sum(weights * run(params, x))
        grads = jax.tree.leaves(jax.grad(loss, (0, 1))(params, x_BxTxD))
        for i, grad in enumerate(grads):
            way = values(*grad.shape, seed=50 + i, dtype=np.float64)
            move = lambda h, i=i, way=way: [
                x + h * way if j == i else x for j, x in enumerate(leaves)
            ]
            slope = (total(move(1e-5)) - total(move(-1e-5))) / 2e-5
            np.testing.assert_allclose(np.sum(grad * way), slope, 1e-6, 1e-6)


def parity() -> dict[str, tuple]:
    """{mixer: (oracle in words, its tests)}: PARITY of every test_parity_*.py."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("test_parity_*.py")):
        module = importlib.import_module(f"tests.{file.stem}")
        for name, (words, tests) in module.PARITY.items():
            before, others = found.get(name, ("", ()))
            words = f"{before}; {words}" if before else words
            found[name] = words, (*others, *tests)
    return found


def naive(name: str):
    """fla/ops/NAME/naive.py of fla-core as a module: its package needs a GPU."""
    folder = importlib.util.find_spec("fla").submodule_search_locations[0]
    path = Path(folder) / "ops" / name / "naive.py"
    spec = importlib.util.spec_from_file_location(f"fla_{name}".replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
