"""Meshes and shardings, decided outside the model by the path of a leaf."""

import re
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm.errors import ConfigError
from lm.parameters import paths

AXES = ("data", "fsdp")

# A parameter whose path matches is replicated; any other is split over fsdp along its
# largest axis that divides, never along the stacked axis of the repeats.
REPLICATED = r"(bias|scale|/decay)$"


def mesh(config) -> jax.sharding.Mesh:
    """The mesh of config.mesh over all devices; -1 takes the devices that are left.

    ConfigError where the axes do not make up the devices.
    """
    devices = jax.devices()
    sizes = {axis: config.mesh[axis] for axis in AXES}
    fixed = int(np.prod([s for s in sizes.values() if s > 0]))
    for axis, size in sizes.items():
        if size < 0:
            sizes[axis] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ConfigError(
            f"mesh.data={config.mesh.data} and mesh.fsdp={config.mesh.fsdp} do not "
            f"make the {len(devices)} devices there are: set mesh.data=-1 and "
            "mesh.fsdp to a divisor of them"
        )
    # Explicit axes, the default of make_mesh, break gathers of sharded embeddings.
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def _first_axis(path: str) -> int:
    """The axis after that of the repeats, over which layers of `units` are stacked."""
    return 1 if re.search(r"(^|/)units/", path) else 0


def parameter_spec(path: str, shape, fsdp: int) -> PartitionSpec:
    """How one leaf of parameters (or of their moments) is split."""
    first = _first_axis(path)
    axes = [i for i in range(first, len(shape)) if shape[i] % fsdp == 0]
    if fsdp == 1 or not axes or re.search(REPLICATED, path):
        return PartitionSpec()
    largest = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*[None] * largest, "fsdp")


def by_rows(function: Callable, carried):
    """function(leaf, axis of the rows) of every leaf of a state of the model."""
    apply = lambda path, x: function(x, _first_axis(path))
    return jax.tree.map(apply, paths(carried), carried)


def of_state(mesh, abstract):
    """Shardings of a training state: moments follow their parameters' paths.

    What is carried from batch to batch follows the rows.
    """
    fsdp = mesh.shape["fsdp"]
    spec = lambda path, x: NamedSharding(mesh, parameter_spec(path, x.shape, fsdp))
    split = lambda x, axis: NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))
    shardings = jax.tree.map(spec, paths(abstract), abstract)
    return shardings._replace(carried=by_rows(split, abstract.carried))


def rows(mesh) -> NamedSharding:
    """Rows of a batch are split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def put(mesh, batch):
    """A host batch, [B, ...] leaves, onto the mesh by rows, on one host or more."""
    sharding = rows(mesh)
    make = lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])
    return jax.tree.map(make, batch)


def beside(params):
    """The sharding of a value that all devices of `params` hold."""
    placed = jax.tree.leaves(params)[0].sharding
    return replicated(placed.mesh) if isinstance(placed, NamedSharding) else placed


def over(params, batches: Iterable) -> Iterator:
    """Batches on the mesh of `params`; as they are where their rows do not divide."""
    placed = jax.tree.leaves(params)[0].sharding
    size = placed.mesh.size if isinstance(placed, NamedSharding) else 1
    for batch in batches:
        divides = size > 1 and len(batch.tokens) % size == 0
        yield put(placed.mesh, batch) if divides else batch
