"""Language models around torch.nn.LSTM, GRU or RNN, read from a state dict and back.

A state dict has no config.json: what the model is follows from names and shapes. It is
embedding, layers, head, as in the word-level example of torch and in AWD-LSTM.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm import config as configs
from lm.errors import ConfigError
from lm.interop import folder
from lm.interop.family import Family
from lm.interop.layout import Table, Tensor, same, summed, transposed
from lm.interop.pretrained import Pretrained, layout, read
from lm.parameters import by_path

KINDS = {4: "lstm", 3: "gru", 1: "elman"}  # by gates


class Names(NamedTuple):
    """What a state dict calls its parts: two tensors, and what those of the recurrent
    layers begin with."""

    embedding: str = "encoder.weight"
    rnn: str = "rnn"
    head: str = "decoder.weight"

    @property
    def bias(self) -> str:
        """Of the head's bias."""
        return self.head.removesuffix("weight") + "bias"

    def layer(self, i: int, name: str) -> str:
        """Of a tensor of layer i."""
        return f"{self.rnn}.{name}_l{i}"


NAMES = Names()


def from_torch(
    source: str | Path, names: Names = NAMES, sharding: Any = None, **mixer
) -> Pretrained:
    """The model of a state dict in a safetensors file, or in a folder of them.

    Args:
      sharding: as of from_pretrained.
      mixer: fields of the mixer that no shape says, as activation="relu" of an RNN.

    Raises:
      ConfigError: tensors that are missing, surplus or misshapen; an embedding as wide
        as no layer, layers that read both ways; weights that are pickled or damaged.
    """
    path = Path(source)
    file = folder.weights(path)
    kind, keys = _keys(file, names, path)
    fields = {f"model.mixers.{kind}.{name}": value for name, value in mixer.items()}
    config = configs.resolve(configs.load(str(configs.BASE), keys | fields))
    return read(*_family(kind, names, file.shapes), config, file, path, sharding)


def to_torch(target: str | Path, model, params, names: Names = NAMES) -> None:
    """Writes the state dict of a model that `from_torch` could give.

    ConfigError for another model, or a file that is there.
    """
    from safetensors.numpy import save_file

    target = Path(target)
    kinds = {type(model.mixer(name)).__name__.lower() for name in model.layers}
    kind = next(iter(kinds))
    plain = (model.block, model.norm, model.positions) == ("plain", "none", 0)
    hidden = getattr(model.mixer(model.layers[0]), "hidden", None) or model.width
    if len(kinds) > 1 or kind not in KINDS.values() or not plain:
        raise ConfigError(
            "a state dict of torch.nn holds layers of one kind, lstm, gru or elman, "
            f"with model.block=plain, model.norm=none and no positions, not {kind}"
        )
    if hidden != model.width:
        raise ConfigError(f"hidden={hidden} is not model.width={model.width}")
    if target.exists():
        raise ConfigError(f"{target} is there already: give another file")
    leaves, tensors = by_path(params), {}
    for path, layers in layout(*_family(kind, names, {}), model).items():
        for i, tensor in enumerate(layers):
            leaf = leaves[path][i] if path.startswith("units/") else leaves[path]
            parts = tensor.write(np.asarray(leaf, np.float32))
            # Of a GRU bias_hh comes twice, the second time whole: paths are sorted.
            tensors |= zip(tensor.names, map(np.ascontiguousarray, parts), strict=True)
    if model.tied:
        tensors[names.head] = tensors[names.embedding]
    save_file(tensors, target, metadata={"format": "pt"})


def _keys(file: folder.Weights, names: Names, path: Path) -> tuple[str, dict[str, Any]]:
    """(the mixer's kind, our keys) of a state dict."""
    shapes, first = file.shapes, names.layer(0, "weight_ih")
    needed = (names.embedding, first, names.layer(0, "weight_hh"))
    lacking = [name for name in needed if len(shapes.get(name, ())) != 2]
    if lacking:
        raise ConfigError(
            f"{path} has no matrix {', '.join(lacking)}; it has {', '.join(shapes)}: "
            "say by Names what its parts are called"
        )
    hidden = shapes[names.layer(0, "weight_hh")][1]
    width = shapes[names.embedding][1]
    kind = KINDS.get(shapes[first][0] // hidden)
    if kind is None or width != hidden:
        raise ConfigError(
            f"{path}: {first} is {list(shapes[first])} over an embedding of {width}; "
            "here all layers are as wide as it"
        )
    depth = 0
    while names.layer(depth, "weight_ih") in shapes:
        depth += 1
    tied = names.head not in shapes or (  # of tied tensors a file may keep one
        shapes[names.head] == shapes[names.embedding]
        and np.array_equal(file.read(names.head), file.read(names.embedding))
    )
    return kind, {
        "model.width": width,
        "model.depth": depth,
        "model.pattern": (kind,),
        "model.block": "plain",
        "model.mlp": "none",
        "model.norm": "none",
        "model.tied": bool(tied),
        "model.output_bias": names.bias in shapes,
    }


def _family(
    kind: str, names: Names, shapes: Mapping[str, tuple]
) -> tuple[Family, dict]:
    """(the layout, its fields) of a state dict."""
    family = Family(
        model_type=f"torch {kind}",
        architecture="",
        trunk="",
        layer=f"{names.rnn}.{{1}}_l{{0}}",
        used={},
        fixed={},
        free=frozenset(),
        settings=lambda c: {},
        fields=lambda m: {},
        block=lambda c: _block(kind),
        rest=lambda c: {
            "embedding": same(names.embedding),
            "head_bias": same(names.bias),
        },
        head=names.head,
        outside=(),
    )
    return family, {"vocab_size": shapes.get(names.embedding, (0,))[0]}


def _block(kind: str) -> Table:
    table = {
        "mixer/input/kernel": transposed("weight_ih"),
        "mixer/recurrent_kernel": transposed("weight_hh"),
        "mixer/bias": summed("bias_ih", "bias_hh"),
    }
    if kind == "gru":
        # The last third of torch's second bias is under the reset gate, and our own.
        table["mixer/bias"] = Tensor(
            ("bias_ih", "bias_hh"),
            lambda ih, hh: ih + np.where(_last_third(hh), 0, hh),
            lambda x: (x, np.zeros_like(x)),
        )
        table["mixer/candidate_bias"] = Tensor(
            ("bias_hh",),
            lambda hh: hh[_last_third(hh)],
            lambda x: (np.concatenate([np.zeros_like(x), np.zeros_like(x), x]),),
        )
    return table


def _last_third(x_F):
    return np.arange(len(x_F)) >= 2 * len(x_F) // 3
