"""The contract that every mixer keeps."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn

from lm.sequence import Sequence


class Mixer(nn.Module):
    """y_t depends on x_<=t since the last reset, and on the incoming state.

    Any T >= 1: training, prefill, a chunk and one decoding step are one call. The
    fields that a subclass adds are its keys in config.model.mixers.

    Attributes:
      width: D, of the input and of the output.
      layers: number of layers of the model.
      dtype: of activations, and of states that hold activations; a recurrent
        accumulator has promote_types(dtype, float32).
      parameter_groups: pairs (regular expression, group) for parameters whose names the
        optimiser does not know, or for another group than theirs; see lm/optim.py.
      parameter_kinds: pairs (regular expression, "matrix" or "vector") for parameters
        that are another kind to Muon than their names say; see lm/parameters.py.
      choices: field -> its valid names, for fields that name something.
      up_project: whether the xLSTM block widens the model around it.
      norm_after: whether the OLMo block norms what it gives, not what it reads.
      causal: False where y_t depends on x after t: such a mixer goes on from nothing.
    """

    width: int
    layers: int
    dtype: Any

    parameter_groups: ClassVar[tuple[tuple[str, str], ...]] = ()
    parameter_kinds: ClassVar[tuple[tuple[str, str], ...]] = ()
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    up_project: ClassVar[bool] = False
    norm_after: ClassVar[bool] = False
    causal = True

    def __call__(self, x_BxTxD, seq: Sequence, state, carry):
        """-> (y_BxTxD, state, carry); `carry` has one structure through all layers."""
        raise NotImplementedError

    def initial_state(self, batch: int, capacity: int):
        """The state before any token: its bytes are the reported state size.

        Args:
          capacity: past tokens that an attention state keeps: 0 in training, or
            data.context with train.state = "carry".
        """
        raise NotImplementedError

    def initial_carry(self, batch: int, length: int) -> dict:
        """What this mixer puts into the values that travel from layer to layer."""
        return {}

    def shared(self, make: Callable) -> dict:
        """Entries of the carry that are parameters of the model, not of one layer.

        Args:
          make: (name, init, shape) -> the value of such a parameter.
        """
        return {}

    def contradiction(self) -> tuple[str, str] | None:
        """(field, what is wrong) of the first field that the others rule out."""
        return None

    @property
    def state_grows(self) -> bool:
        """Whether the bytes of the state are linear in the context, or constant."""
        return False

    def context_flops(self, length: int) -> int:
        """Forward FLOPs of one row beyond `length` times those of its first token.

        Pointwise work of a recurrence that no matrix product shows belongs here too.
        """
        return 0
