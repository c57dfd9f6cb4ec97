"""Initial values of parameters: (key, shape, dtype) -> array, as linen takes them."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def truncated_normal(std: float, axis: int = -1):
    """Normal cut at 2 deviations; a shorter `axis` is a bitwise prefix of a longer."""

    def init(key, shape, dtype):
        leading = jnp.moveaxis(jnp.empty(shape), axis, 0).shape
        draw = jax.random.truncated_normal(key, -2, 2, leading, dtype)
        return jnp.moveaxis(draw, 0, axis) * (std / 0.87962566103423978)

    return init


def fan_in(key, shape, dtype):
    """Truncated normal with variance 1 / (rows of the matrix)."""
    return truncated_normal(shape[-2] ** -0.5)(key, shape, dtype)


def orthogonal_gates(key, shape, dtype):
    """One orthogonal matrix a gate, side by side: [H, gates * H]."""
    H, gates = shape[0], shape[1] // shape[0]
    draw = nn.initializers.orthogonal()
    keys = [jax.random.fold_in(key, gate) for gate in range(gates)]
    return jnp.concatenate([draw(k, (H, H), dtype) for k in keys], 1)


def xavier(gain: float):
    """Uniform of variance gain^2 * 2 / (rows + columns) (Glorot and Bengio 2010)."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


def uniform(bound: float):
    """Uniform in [-bound, bound]."""
    return lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def prefixed(init, axis: int = -1):
    """`init`, drawn so that a shorter `axis` is a bitwise prefix of a longer."""

    def draw(key, shape, dtype):
        leading = jnp.moveaxis(jnp.empty(shape), axis, 0).shape
        return jnp.moveaxis(init(key, leading, dtype), 0, axis)

    return draw


def time_step(key, shape, dtype):
    """softplus^-1 of a step that is log-uniform in [1e-3, 0.1] (arXiv 2312.00752)."""
    low, high = jnp.log(1e-3), jnp.log(0.1)
    dt = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), 1e-4)
    return dt + jnp.log(-jnp.expm1(-dt))


def zeros(key, shape, dtype):
    return jnp.zeros(shape, dtype)


def ones(key, shape, dtype):
    return jnp.ones(shape, dtype)
