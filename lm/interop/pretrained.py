"""A model read from a folder of Hugging Face's layout, and one written there."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm import config as configs
from lm import count
from lm import model as models
from lm.config import ConfigError
from lm.interop import folder
from lm.interop.families import FAMILIES, family_of
from lm.interop.family import Family
from lm.interop.layout import Tensor, same
from lm.mixers import MIXERS
from lm.parameters import by_path, paths

SHARD_BYTES = 5_000_000_000


class Pretrained(NamedTuple):
    """config: resolved, its model and sizes alone are the checkpoint's; model: the LM;
    params: as trained, layers stacked; folder: where it was read."""

    config: Any
    model: models.LM
    params: Any
    folder: Path


def from_pretrained(source: str | Path, sharding: Any = None, **model) -> Pretrained:
    """A model of a folder in Hugging Face's layout, or of a name on its hub.

    Args:
      source: a folder with config.json and safetensors, or a hub's name, which is
        taken from its cache or, with a network, fetched.
      sharding: of every parameter: one jax Sharding, or params -> a tree of them
        (lm/sharding.py); parameters are read and placed one at a time.
      model: keys of config.model that are not the checkpoint's, as dtype="bfloat16".

    Raises:
      ConfigError: a family that is not here; one list of every field of config.json
        that our model would not honour and every tensor that is missing, surplus or of
        another shape; weights that are pickled or damaged.
    """
    path, family, values, problems = fields_of(source)
    try:
        config = configs.override(
            family.config(values), {f"model.{key}": v for key, v in model.items()}
        )
        config = configs.resolve(config)
    except ConfigError as error:
        raise _refused(path, [*problems, str(error)]) from error
    return read(family, values, config, folder.weights(path), path, sharding, problems)


def fields_of(source: str | Path) -> tuple[Path, Family, dict, list[str]]:
    """(folder, family, its fields, what of config.json is not honoured)."""
    path = folder.located(source)
    stored = folder.json_of(path / "config.json")
    family = FAMILIES.get(stored.get("model_type"))
    if family is None:
        raise ConfigError(
            f"{path / 'config.json'}: model_type={stored.get('model_type')!r} is not "
            f"here; families are {', '.join(FAMILIES)}"
        )
    values, problems = family.read(stored)
    if misfits := family.misfits(stored):
        raise _refused(path, [*problems, *misfits])
    return path, family, values, problems


def read(
    family: Family,
    values: dict,
    config,
    file: folder.Weights,
    path: Path,
    sharding: Any = None,
    problems: list[str] | None = None,
) -> Pretrained:
    """The model of a resolved config with the tensors of `file`; see from_pretrained.

    problems: what is wrong already.
    """
    problems = [*(problems or ())]
    built = models.build(config, values["vocab_size"])
    tensors = layout(family, values, built)
    wanted = {name for layers in tensors.values() for t in layers for name in t.names}
    names = _renamed(family, file.shapes, wanted)
    problems += _mismatches(tensors, built, file.shapes, names)
    if not problems and built.tied and family.head in file.shapes:
        embedding = names[tensors["embedding"][0].names[0]]
        if not np.array_equal(file.read(family.head), file.read(embedding)):
            words = f"but {family.head} is not {embedding}"
            problems.append(f"tie_word_embeddings={built.tied}, {words}")
    if problems:
        raise _refused(path, problems)

    def leaf(path: str, place: Any):
        layers = tensors[path]
        arrays = [t.read(*(file.read(names[name]) for name in t.names)) for t in layers]
        whole = np.stack(arrays) if path.startswith("units/") else arrays[0]
        return jax.device_put(whole, place)

    abstract = count.abstract_params(built)
    places = sharding(abstract) if callable(sharding) else sharding
    if places is None or isinstance(places, jax.sharding.Sharding):
        places = jax.tree.map(lambda _: places or jax.devices()[0], abstract)
    params = jax.tree.map(leaf, paths(abstract), places)
    return Pretrained(config, built, params, path)


def pooler(source: str | Path) -> dict[str, np.ndarray] | None:
    """{"kernel": [D, D], "bias": [D]} of BERT's layer over the first token, or None."""
    file = folder.weights(folder.located(source))
    for prefix in ("", "bert."):
        name = f"{prefix}pooler.dense"
        if f"{name}.weight" in file.shapes:
            kernel, bias = file.read(f"{name}.weight"), file.read(f"{name}.bias")
            return {"kernel": kernel.T, "bias": bias}
    return None


def save_pretrained(
    target: str | Path, config, model: models.LM, params, shard_bytes: int = SHARD_BYTES
) -> str:
    """Writes a model that transformers can load; returns its model_type.

    Raises:
      ConfigError: no family computes what this config's model does, with the keys in
        which the nearest differs; or `target` holds a model.
    """
    family, values = family_of(config, model.vocab_size)
    fields = {"model_type": family.model_type, "architectures": [family.architecture]}
    tensors = layout(family, values, model)
    leaves = by_path(params)

    def arrays():
        for path, layers in tensors.items():
            for r, tensor in enumerate(layers):
                stacked = path.startswith("units/")
                leaf = leaves[path][r] if stacked else leaves[path]
                parts = tensor.write(np.asarray(leaf, np.float32))
                yield from zip(tensor.names, parts, strict=True)

    # transformers has defaults for these, which are of other vocabularies.
    no_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = fields | values | no_ids | {"dtype": "float32"}
    folder.write(Path(target), config, arrays(), shard_bytes)
    return family.model_type


def layout(family: Family, values: dict, model: models.LM) -> dict[str, list[Tensor]]:
    """{path of our parameter: its Tensor in each of the layers that it stacks}."""
    rest = family.rest(values)
    if not model.tied:
        head = same(family.head)
    block, found = family.block(values), {}
    kinds = {kind: name for name, kind in MIXERS.items()}
    for path in by_path(count.abstract_params(model)):
        top, _, inner = path.partition("/")
        if path == "head_kernel":
            found[path] = [head]
        elif path in rest:
            found[path] = [rest[path].named(family.full)]
        else:
            if top == "units":
                name, _, inner = inner.partition("/")
                j, step = int(name.removeprefix("block_")), len(model.pattern)
                layers = [r * step + j for r in range(model.repeats)]
            else:  # tail_block_j
                j = int(top.removeprefix("tail_block_"))
                layers = [len(model.pattern) * model.repeats + j]
            pattern = f"{family.trunk}{family.layer}"
            kind = type(model.mixer(model.layers[layers[0]]))
            table = block.get(kinds[kind], block)
            found[path] = [
                table[inner].named(functools.partial(pattern.format, i)) for i in layers
            ]
    return found


def _renamed(family: Family, shapes: dict, wanted: set[str]) -> dict[str, str]:
    """{full name: the file's name}, without buffers and a tied head, if not wanted."""
    unneeded, names = (family.head, *family.buffers), {}
    whole = lambda name: family.trunk and name.startswith(family.trunk)
    fulls = {name if whole(name) else family.full(name): name for name in shapes}
    lacking = wanted - fulls.keys()
    for full, name in fulls.items():
        if full not in wanted:
            others = (full.replace(*alias) for alias in family.aliases)
            full = next((other for other in others if other in lacking), full)
        if full in wanted or not name.endswith(unneeded):
            names[full] = name
    return names


def _mismatches(tensors, model, shapes: dict, names: dict[str, str]) -> list[str]:
    """What is wrong with a file's tensors, a line each."""
    abstract = by_path(count.abstract_params(model))
    found = {name: shapes[file_name] for name, file_name in names.items()}
    wanted, problems = set(), []
    for path, layers in tensors.items():
        needed = layers[0].shapes(abstract[path].shape[path.startswith("units/") :])
        for tensor in layers:
            wanted |= set(tensor.names)
            there = [found.get(name) for name in tensor.names]
            if tensor.alike(needed, there):
                continue
            for name, shape, other in zip(tensor.names, needed, there, strict=True):
                if other is None:
                    problems.append(f"missing: {name}")
                elif other != shape:
                    problems.append(
                        f"{names[name]} is {list(other)}, and config.json makes it "
                        f"{list(shape)}"
                    )
    problems += [f"surplus: {names[name]}" for name in names if name not in wanted]
    return sorted(problems)


def _refused(path: Path, problems: list[str]) -> ConfigError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"{path} is not what this model can be:{lines}")
