"""Work of the backward pass that XLA:CPU would do, and keep the results of, before it.

XLA:CPU orders its work by breadth: what a backward pass can make without its cotangent
is made in the forward pass, or is what that made already, and is held until then. Here
such work waits for its cotangent.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def zero(g):
    """A scalar 0 that is not known before the cotangent g is.

    A plain 0 on several devices, to which a scalar of g would have to be sent, and on
    other backends than the CPU.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return jnp.zeros((), g.dtype)
    return (g.reshape(-1)[0] > jnp.inf).astype(g.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def remade(function: Callable, *arrays):
    """function(*arrays), one array; made again in the backward pass, and not kept."""
    return function(*arrays)


def _remade_backward(function: Callable, arrays, g):
    later = (x + zero(g).astype(x.dtype) for x in arrays)
    return jax.vjp(function, *later)[1](g)


remade.defvjp(lambda function, *arrays: (function(*arrays), arrays), _remade_backward)


@jax.custom_vjp
def looked_up(table_VxD, index):
    """Rows of a table, [*index, D]; their sum by row, the gradient, begins late."""
    return table_VxD[index]


def _looked_up_forward(table_VxD, index):
    return table_VxD[index], (table_VxD[:, :0], index)


def _looked_up_backward(residuals, g):
    table_Vx0, index = residuals
    empty_VxD = jnp.full((len(table_Vx0), g.shape[-1]), zero(g))
    return empty_VxD.at[index].add(g), None


looked_up.defvjp(_looked_up_forward, _looked_up_backward)
