"""The contract's checks of arithmetic: float64, saturation, bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np

from lm import sequence
from lm.sequence import Sequence
from tests.subjects import QUICK, WIDTH, Subject, close, form, ragged, values


def _floats(state):
    """(floating leaves, the function that puts others in their place)."""
    leaves, form = jax.tree.flatten(state)
    place = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def rebuild(floats):
        new = list(leaves)
        for i, x in zip(place, floats, strict=True):
            new[i] = x
        return jax.tree.unflatten(form, new)

    return [leaves[i] for i in place], rebuild


def _scalar(y_BxTxD, state, valid_BxT):
    """A random projection of valid outputs and of the state, in float32 or wider."""
    project = lambda x, seed: jnp.sum(x * values(*x.shape, seed=seed).astype(x.dtype))
    floats = _floats(state)[0]
    total = project(jnp.where(valid_BxT[..., None], y_BxTxD, 0), 6)
    return total + sum(project(x, 7 + i) for i, x in enumerate(floats))


def precision(name: str) -> None:
    """e. In float64, all at once is the fold of single steps, in every gradient too."""
    with jax.enable_x64(True):
        mixer, seq = Subject(name, jnp.float64), ragged()
        warm = mixer.warm()
        assert form(warm) == form(mixer.empty()), "a call changes the state's form"
        start, rebuild = _floats(jax.tree.map(jnp.asarray, warm))

        def once(params, x_BxTxD, floats):
            y_BxTxD, state = mixer.call(params, x_BxTxD, seq, rebuild(floats))
            return _scalar(y_BxTxD, state, seq.valid), (y_BxTxD, state)

        def fold(params, x_BxTxD, floats):
            def step(state, token):
                x_BxD, *fields = token
                seq_Bx1 = Sequence(*(field[:, None] for field in fields))
                y_Bx1xD, state = mixer.call(params, x_BxD[:, None], seq_Bx1, state)
                return state, y_Bx1xD[:, 0]

            time_major = lambda x: jnp.swapaxes(jnp.asarray(x), 0, 1)
            inputs = jax.tree.map(time_major, (x_BxTxD, *seq[:4]))
            state, y_TxBxD = jax.lax.scan(step, rebuild(floats), inputs)
            y_BxTxD = jnp.swapaxes(y_TxBxD, 0, 1)
            return _scalar(y_BxTxD, state, seq.valid), (y_BxTxD, state)

        def all_of(function):
            grad = jax.value_and_grad(function, (0, 1, 2), has_aux=True)
            arguments = (mixer.params, jnp.asarray(mixer.x()), start)
            text = str(jax.make_jaxpr(grad)(*arguments))
            assert "f32[" not in text, (
                "it computes in float32 where it is given float64"
            )
            compiled = jax.jit(grad, compiler_options=QUICK)
            (_, (y_BxTxD, state)), grads = compiled(*arguments)
            return np.asarray(y_BxTxD)[seq.valid], state, grads

        close(all_of(once), all_of(fold), 1e-9)


def stability(name: str) -> None:
    """f. Finite forward and backward at saturation, also for identical tokens."""
    for dtype in (jnp.float32, jnp.bfloat16):
        _saturate(Subject(name, dtype))


def _saturate(mixer: Subject) -> None:
    # Attention over all tokens holds T^2 weights: 1,024 tokens keep them at 8 MB.
    T = 1024 if mixer.mixer.state_grows else 4096
    seq = sequence.full(1, T)
    start, rebuild = _floats(mixer.mixer.initial_state(1, 0))

    def project(params, x_BxTxD, floats):
        y_BxTxD, state = mixer.call(params, x_BxTxD, seq, rebuild(floats))
        assert y_BxTxD.dtype == mixer.dtype, f"its output is {y_BxTxD.dtype}"
        return _scalar(y_BxTxD, state, seq.valid), y_BxTxD

    grad = jax.jit(jax.value_and_grad(project, (0, 1, 2), has_aux=True))
    params = jax.tree.map(lambda p: 10 * p, mixer.params)
    for distinct in (T, 1):
        x_1xTxD = np.broadcast_to(50 * values(1, distinct, WIDTH), (1, T, WIDTH))
        for leaf in jax.tree.leaves(grad(params, x_1xTxD.astype(mixer.dtype), start)):
            assert np.isfinite(np.asarray(leaf, np.float32)).all(), "not finite"
