"""Parameters for decoding with int8 weights; all else keeps its dtype."""

import jax

from lm import parameters
from lm.ops.int8 import quantize

# The axis that products contract, by the last name of a parameter's path.
CONTRACTED = {"kernel": 0, "embedding": 1, "head_kernel": 1}


def int8(params):
    """`params` of `LM.unrolled()` with every Dense kernel and the tables as Int8.

    `generate.continuations` takes them with the unrolled model. All else stays: norms,
    biases, positions, and what a mixer multiplies by itself (recurrent kernels,
    convolutions).
    """

    def leaf(path: str, x):
        axis = CONTRACTED.get(path.rpartition("/")[2])
        return x if axis is None else quantize(x, axis)

    return jax.tree.map(leaf, parameters.paths(params), params)
