"""What a family of pretrained models is: fields of its config.json, names, layouts.

A family is data around our own blocks. Its fields are of three kinds: `used` have a key
here; `fixed` must have a value under which transformers computes what our model does;
`free` change nothing that a model computes from its weights. A field that is none of
them is refused, so that a later transformers cannot add one unnoticed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lm import config as configs
from lm.interop.layout import Table


def words(text: str) -> frozenset[str]:
    """Names with white space between."""
    return frozenset(text.split())


# Of every config.json: what training, files and generation are told.
FREE = words(
    """architectures model_type transformers_version torch_dtype dtype _name_or_path
    initializer_range use_cache bos_token_id eos_token_id pad_token_id sep_token_id
    output_attentions output_hidden_states return_dict return_dict_in_generate
    task_specific_params id2label label2id problem_type _attn_implementation_autoset
    gradient_checkpointing tokenizer_class"""
)
FIXED = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

# Fields that may be null though their default is a number.
OPTIONAL = words("num_key_value_heads head_dim sliding_window rope_theta")

# Keys of ours that change nothing of what weights compute, but for rounding.
NEUTRAL = ("dtype", "matmul_precision", "remat", "dropout_mask")


@dataclasses.dataclass(frozen=True)
class Family:
    """One model_type of transformers.

    Attributes:
      architecture: the class that its config.json names.
      trunk: what names of all tensors but the head's begin with; files of a bare model
        leave it out.
      layer: a name of layer {}, {} being what `block` says, within the trunk.
      used: field -> transformers' default, None where it follows from others.
      fixed: field -> values, the first of which is the default.
      free: fields, beside FREE.
      settings: fields, complete -> our keys, dotted.
      fields: (our values, dotted) -> fields; the inverse of `settings` where there is
        one, and anything where there is none.
      block: fields -> the table of a layer; rest: fields -> that of all else, but the
        head: names within the trunk.
      head: the name of the head's tensor.
      outside: what names of tensors begin with that are not in the trunk.
      buffers: ends of names of what old files hold beside parameters.
      aliases: (a part of a name that a file may have, that of `block`).
    """

    model_type: str
    architecture: str
    trunk: str
    layer: str
    used: Mapping[str, Any]
    fixed: Mapping[str, tuple]
    free: frozenset[str]
    settings: Callable[[dict], dict[str, Any]]
    fields: Callable[[dict], dict[str, Any]]
    block: Callable[[dict], Table]
    rest: Callable[[dict], Table]
    head: str = "lm_head.weight"
    buffers: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def full(self, name: str) -> str:
        """The name in a file of a tensor that `rest` names."""
        outer = name == self.head or name.startswith(self.outside)
        return name if outer else f"{self.trunk}{name}"

    def read(self, stored: Mapping[str, Any]) -> tuple[dict, list[str]]:
        """(the fields that are used, complete; what is wrong with the others)."""
        fixed = FIXED | dict(self.fixed)
        free = FREE | self.free
        values, problems = dict(self.used), []
        for name, value in stored.items():
            if name in values:
                values[name] = value
            if name in fixed:
                if not any(_equal(value, good) for good in fixed[name]):
                    problems.append(f"{name}={value!r}: {_words(fixed[name])}")
            elif name not in values and name not in free:
                problems.append(f"{name}={value!r}: not known of {self.model_type!r}")
        return values, problems

    def misfits(self, stored: Mapping[str, Any]) -> list[str]:
        """Used fields with which nothing can be computed, for their type or size."""
        found = (
            _misfit(name, stored[name], default)
            for name, default in self.used.items()
            if name in stored
        )
        return list(filter(None, found))

    def config(self, values: Mapping[str, Any]) -> configs.ConfigDict:
        """Our config of the fields of `read`; ConfigError for what has no place."""
        keys = self.settings(dict(values))
        context = keys.setdefault("data.context", 128)
        keys["train.batch_tokens"] = context * max(1, 2048 // context)
        keys["eval.stream_chunk"] = min(64, context)
        return configs.load(str(configs.BASE), keys)


def _misfit(name: str, value, default) -> str | None:
    if default in (None, "auto") or (value is None and name in OPTIONAL):
        return None
    kind = type(default)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        return f"{name}={value!r} is no {kind.__name__}"
    return f"{name}={value!r} must be at least 1" if kind is int and value < 1 else None


def _equal(value, good) -> bool:
    if isinstance(good, list):
        return isinstance(value, (list, tuple)) and list(map(_number, value)) == good
    return value == good and isinstance(value, bool) == isinstance(good, bool)


def _number(value):
    """JSON has no infinity; transformers writes {"__float__": "Infinity"}."""
    return float(value["__float__"]) if isinstance(value, dict) else value


def _words(good: tuple) -> str:
    return "only " + " or ".join(map(repr, good))


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys of two flat configs under which the same weights compute something else."""

    def counts(key: str) -> bool:
        leaf = key.rpartition(".")[2]
        dropped = leaf.endswith("dropout") or leaf == "chunk"
        dropped |= key == "model.mixers.attention.block"
        return key.startswith("model.") and leaf not in NEUTRAL and not dropped

    keys = sorted({key for key in (*ours, *theirs) if counts(key)})
    return [key for key in keys if ours.get(key) != theirs.get(key)]
