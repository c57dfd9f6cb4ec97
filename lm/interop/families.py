"""All families by name, and the one that computes what a config of ours says."""

import math

from lm import config as configs
from lm.errors import ConfigError
from lm.interop import (
    bert,
    gpt2,
    gpt_neox,
    llama,
    mamba,
    olmo_hybrid,
    recurrent_gemma,
)
from lm.interop.family import Family, differing
from lm.interop.fields import shortest

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        gpt2.GPT2,
        bert.BERT,
        llama.LLAMA,
        llama.MISTRAL,
        llama.QWEN3,
        llama.OLMO2,
        gpt_neox.GPT_NEOX,
        mamba.MAMBA,
        mamba.MAMBA2,
        recurrent_gemma.RECURRENT_GEMMA,
        olmo_hybrid.OLMO_HYBRID,
    )
}


def family_of(config, vocab_size: int) -> tuple[Family, dict]:
    """The family that computes what our config says, and its fields."""
    ours = plain(configs.flatten(configs.resolve(config)))
    ours |= {"model.pattern": shortest(ours["model.pattern"], ours["model.depth"])}
    nearest: tuple[str, list[str]] | None = None
    for family in FAMILIES.values():
        values = dict(family.used) | family.fields(ours) | {"vocab_size": vocab_size}
        values, problems = family.read(values)
        try:
            theirs = configs.flatten(configs.resolve(family.config(values)))
        except ConfigError:
            continue  # the family has no such value, or needs one that ours lacks
        keys = problems or differing(ours, plain(theirs))
        if not keys:
            return family, {k: v for k, v in values.items() if v is not None}
        alike = ours["model.pattern"] == theirs["model.pattern"]
        if alike and (nearest is None or len(keys) < len(nearest[1])):
            nearest = family.model_type, keys
    words = f"no family of transformers that is here ({', '.join(FAMILIES)}) "
    if nearest is None:
        mixers = ", ".join(ours["model.pattern"])
        raise ConfigError(f"{words}has layers of {mixers}")
    keys = ", ".join(nearest[1])
    raise ConfigError(
        f"{words}computes what this model does; the nearest, {nearest[0]}, differs in "
        f"{keys}"
    )


def plain(values: dict) -> dict:
    """A flat config whose mixers have their kinds' names, where no two are of one, and
    no None for a default."""
    names = dict.fromkeys(values["model.pattern"])
    kinds = {n: values.get(f"model.mixers.{n}.kind", n) for n in names}
    if len(set(kinds.values())) == len(kinds):
        for name, kind in kinds.items():
            old, new = f"model.mixers.{name}.", f"model.mixers.{kind}."
            values = {k.replace(old, new): v for k, v in values.items()}
            values |= {f"{new}kind": kind}
        pattern = tuple(kinds[name] for name in values["model.pattern"])
        values |= {"model.pattern": pattern}
    width, mixer = values["model.width"], values.get
    heads = mixer("model.mixers.attention.heads") or 1
    inner = width * (mixer("model.mixers.mamba2.expand") or 1)
    defaults = {
        "attention.kv_heads": heads,
        "attention.head_width": width // heads,
        "attention.output_bias": bool(mixer("model.mixers.attention.bias")),
        "rglru.lru_width": width,
        "mamba.dt_rank": -(-width // 16),
        "mamba2.head_width": math.gcd(64, inner),
    }
    for key, default in defaults.items():
        key = f"model.mixers.{key}"
        if key in values and values[key] is None:
            values = values | {key: default}
    return values
