"""A model, its mesh and its compiled step, shared by runs that differ in numbers."""

import functools
import json
import time

import jax
import jax.numpy as jnp

from lm import config as configs
from lm import model as models
from lm import optim, sharding, step
from lm.config import ConfigError
from lm.data import Batch
from lm.sequence import Sequence
from lm.step import TrainState

# Keys that reach the step as arrays, or never.
TRACED = (
    "name",
    "seed",
    "optim.lr",
    "optim.weight_decay",
    "optim.final_lr",
    "optim.clip",
    "optim.warmup",
    "optim.decay",
    "train.duration",
    "train.polyak_start",
    "eval.every",
    "data.train_bytes",
    "data.eval_bytes",
)

# XLA's options for the initial state, by backend. XLA:CPU makes the random bits of all
# kernels before it makes one kernel of them otherwise, which takes room and time.
INIT_OPTIONS = {
    "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
}

# Keys whose terms are left out of the step at 0, and else reach it as arrays.
OPTIONAL = ("loss.label_smoothing", "loss.z_loss", "loss.ar", "loss.tar")


def program(config, vocab_size: int) -> "Program":
    """The program of a config: a grid of rates and seeds compiles its step once."""
    static = config.to_dict()
    del static["run"]
    for key in TRACED:
        section, _, leaf = key.rpartition(".")
        (static[section] if section else static)[leaf] = None
    for key in OPTIONAL:
        section, _, leaf = key.rpartition(".")
        static[section][leaf] = static[section][leaf] and None
    return _program(json.dumps(static, sort_keys=True), vocab_size)


@functools.lru_cache(maxsize=4)
def _program(static: str, vocab_size: int) -> "Program":
    return Program(configs.from_json(static), vocab_size)


class Program:
    """What a run needs of jax before its first step.

    Attributes:
      model, mesh.
      abstract: TrainState of ShapeDtypeStructs with their shardings.
      init: seed -> TrainState on the mesh; one jitted path for every arm.
      start: the same from parameters that are given.
    """

    def __init__(self, config, vocab_size: int):
        self._config = config
        self.model = models.build(config, vocab_size)
        self.mesh = sharding.mesh(config)
        initial = functools.partial(step.initial_state, self.model, config)
        abstract = jax.eval_shape(initial, jax.ShapeDtypeStruct((), jnp.int32))
        self._shardings = sharding.of_state(self.mesh, abstract)
        self.abstract: TrainState = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            self._shardings,
        )
        options = INIT_OPTIONS.get(jax.default_backend())
        self.init = jax.jit(
            initial, out_shardings=self._shardings, compiler_options=options
        )
        start = functools.partial(step.start, self.model, config)
        self.start = jax.jit(start, out_shardings=self._shardings)

    @functools.cached_property
    def train_step(self):
        """The step; the first access compiles it, and a signal may end that."""
        begin = time.perf_counter()
        rows, micro_batches = batch_shape(self._config, self.mesh.size)
        jitted = step.jit_train_step(
            self.model, self._config, self.mesh, self._shardings, micro_batches
        )
        context = self._config.data.context
        compiled = jitted.lower(
            self.abstract, _abstract_batch(rows, context), _abstract_hyper()
        ).compile()
        self.compile_seconds = time.perf_counter() - begin
        return compiled


def batch_shape(config, devices: int) -> tuple[int, int]:
    """(rows of the global batch, micro-batches); ConfigError if no split fits.

    The fewest micro-batches at which no device holds more than train.micro_tokens.
    """
    context, limit = config.data.context, config.train.micro_tokens
    rows = config.train.batch_tokens // context
    if rows % devices:
        raise ConfigError(
            f"train.batch_tokens={config.train.batch_tokens} is {rows} rows of "
            f"data.context={context}, which {devices} devices cannot share: make the "
            f"rows a multiple of {devices}"
        )
    local = rows // devices
    most = local if limit is None else limit // context
    counts = [n for n in range(1, local + 1) if local % n == 0 and local // n <= most]
    if not counts:
        raise ConfigError(
            f"train.micro_tokens={limit} is less than one row of "
            f"data.context={context}: raise it or shorten the context"
        )
    return rows, counts[0]


def _abstract_batch(rows: int, context: int) -> Batch:
    shape = lambda dtype: jax.ShapeDtypeStruct((rows, context), dtype)
    i32, f32, boolean = shape(jnp.int32), shape(jnp.float32), shape(jnp.bool_)
    return Batch(i32, i32, f32, Sequence(i32, i32, boolean, boolean))


def _abstract_hyper() -> optim.Hyper:
    scalars = [jax.ShapeDtypeStruct((), jnp.float32)] * (len(optim.Hyper._fields) - 1)
    return optim.Hyper(*scalars, jax.ShapeDtypeStruct((), jnp.int32))
