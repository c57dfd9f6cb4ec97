"""What a config may say: names, ranges, contradictions and durations."""

import importlib.util
import math
import re
from typing import Any

from lm.config.data import check_data
from lm.config.durations import durations
from lm.config.optimizer import check_optimizer
from lm.errors import ConfigError, choose

RANGES = (
    (
        "model.width model.depth model.conv_width model.mlp_width data.context "
        "data.max_document data.min_count "
        "data.train_bytes data.eval_bytes train.batch_tokens train.micro_tokens "
        "eval.rows eval.stream_chunk run.keep",
        lambda x: x >= 1,
        "at least 1",
    ),
    (
        "optim.lr optim.eps optim.clip model.norm_eps model.embedding_scale",
        lambda x: 0 < x < math.inf,
        "positive and finite",
    ),
    (
        "optim.weight_decay loss.z_loss loss.ar loss.tar model.logit_cap",
        lambda x: 0 <= x < math.inf,
        "0 or more, and finite",
    ),
    ("data.vocab_size", lambda x: x >= 256, "at least 256, the bytes"),
    ("optim.final_lr", lambda x: 0 <= x <= 1, "a fraction of optim.lr, 0 to 1"),
    (
        "optim.momentum optim.b1 optim.b2 model.word_dropout model.embedding_dropout "
        "model.residual_dropout model.output_dropout loss.label_smoothing",
        lambda x: 0 <= x < 1,
        "in [0, 1)",
    ),
    (
        "run.accept_data",
        lambda x: re.fullmatch("[0-9a-f]{12,64}", x),
        "the first 12 hex digits, or more, of a text's fingerprint",
    ),
    ("train.ema_decay", lambda x: 0 < x < 1, "between 0 and 1"),
    ("model.token_types", lambda x: x >= 0, "0 (none) or more"),
    ("run.sample_tokens", lambda x: x >= 0, "0 (no samples) or more"),
    ("seed", lambda x: 0 <= x < 2**31, "in [0, 2**31)"),
    ("mesh.data mesh.fsdp", lambda x: x == -1 or x >= 1, "at least 1, or -1: the rest"),
    ("name run.prompt", lambda x: x != "", "a text that is not empty"),
)


def choices() -> dict[str, tuple[str, ...]]:
    """The valid names of every key that holds one."""
    from lm.averages import WEIGHTS
    from lm.blocks import BLOCKS
    from lm.data.clean import INVALID_UTF8
    from lm.data.corpora import CORPORA, UNITS
    from lm.data.loader import TRAIN_BATCHES
    from lm.data.tokenizers import TOKENIZERS
    from lm.dropout import MASKS
    from lm.ends import OUTPUT_LAYERS
    from lm.layers import MLPS, NORMS
    from lm.model import REMAT
    from lm.optimizers import OPTIMIZERS
    from lm.schedules import SCHEDULES

    return {
        "data.corpus": tuple(CORPORA),
        "data.document": tuple(UNITS),
        "data.invalid_utf8": tuple(INVALID_UTF8),
        "data.tokenizer": tuple(TOKENIZERS),
        "model.block": tuple(BLOCKS),
        "model.mlp": tuple(MLPS),
        "model.norm": tuple(NORMS),
        "model.dropout_mask": tuple(MASKS),
        "model.position": ("none", "learned"),
        "model.output_layer": OUTPUT_LAYERS,
        "model.dtype": ("float32", "bfloat16"),
        "model.matmul_precision": ("default", "high", "highest"),
        "model.remat": tuple(REMAT),
        "optim.name": tuple(OPTIMIZERS),
        "optim.schedule": tuple(SCHEDULES),
        "train.average": ("none", *WEIGHTS),
        "train.state": tuple(TRAIN_BATCHES),
    }


def check(values: dict[str, Any]) -> None:
    """Raise at the first value or contradiction that cannot be run; keys are dotted."""
    for key, names in choices().items():
        choose(key, values[key], names)
    for keys, good, words in RANGES:
        for key in keys.split():
            if values[key] is not None and not good(values[key]):
                raise ConfigError(f"{key}={values[key]!r} must be {words}")
    depth, pattern = values["model.depth"], values["model.pattern"]
    if not 1 <= len(pattern) <= depth:
        raise ConfigError(
            f"model.pattern={pattern} must name 1 to model.depth={depth} mixers, or "
            "some would never be used"
        )
    _check_block(values)
    check_data(values)
    _check_batch(values)
    _check_record(values["run.record"])
    check_optimizer(values)
    durations(values)


def _check_block(values: dict[str, Any]) -> None:
    """Raise for what the block has no place for, or a norm in the way of AR."""
    from lm.blocks import BLOCKS

    block, mlp = values["model.block"], values["model.mlp"]
    mlps = BLOCKS[block].mlps
    if mlp not in mlps:
        raise ConfigError(
            f"model.mlp={mlp!r} has no place in model.block={block!r}; add "
            f"--config.model.mlp={mlps[0]}"
        )
    taps = values["model.conv_width"]
    if taps != 1 and block != "shared":
        raise ConfigError(
            f"model.conv_width={taps} has no place in model.block={block!r}; add "
            "--config.model.conv_width=1, or take model.block=shared"
        )
    norm = values["model.norm"]
    for key in ("loss.ar", "loss.tar"):
        if values[key] and norm != "none":
            raise ConfigError(
                f"{key}={values[key]} weighs the size of activations, which "
                f"model.norm={norm!r} takes out again: add --config.model.norm=none"
            )


def check_mixer(name: str, fields: dict[str, Any], values: dict[str, Any]) -> None:
    """Raise where the fields of an entry of model.mixers, or `values`, clash."""
    from lm.blocks import BLOCKS
    from lm.data.tasks import TASKS
    from lm.mixers import MIXERS

    def fail(field: str, words: str) -> None:
        raise ConfigError(f"model.mixers.{name}.{field}={fields[field]!r} {words}")

    for field, value in fields.items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            fail(field, "must be at least 1")
        if isinstance(value, float) and not math.isfinite(value):
            fail(field, "must be finite")
    for field in ("dropout", "weight_dropout"):
        if not 0 <= fields.get(field, 0) < 1:
            fail(field, "must be in [0, 1)")
    if fields.get("rope_theta", 1) <= 0:
        fail("rope_theta", "must be positive")
    chunk = fields.get("chunk")
    if chunk is not None and chunk & (chunk - 1):
        fail("chunk", "must be a power of two")
    heads, kv_heads = fields.get("heads", 1), fields.get("kv_heads")
    kind, block = MIXERS[fields["kind"]], BLOCKS[values["model.block"]]
    own = {field: value for field, value in fields.items() if field != "kind"}
    depth, dtype = values["model.depth"], values["model.dtype"]
    mixer = kind(values["model.width"], depth, dtype, **own, parent=None)
    mixer = mixer.clone(width=block.mixer_width(mixer, values["model.mlp_width"]))
    inner, width = "model.width", mixer.width
    for field in ("hidden", "lru_width"):
        if fields.get(field) is not None:
            inner, width = f"model.mixers.{name}.{field}", fields[field]
    own_widths = "head_width" in fields and fields["head_width"] is not None
    own_widths |= {"key_expand", "value_expand"} <= fields.keys()
    if not own_widths and width % heads:
        fail("heads", f"does not divide {inner}={width}")
    if kv_heads is not None and heads % kv_heads:
        fail("kv_heads", f"does not divide model.mixers.{name}.heads={heads}")
    for field, names in kind.choices.items():
        choose(f"model.mixers.{name}.{field}", fields[field], names)
    found = mixer.contradiction()
    if found:
        fail(*found)
    task = TASKS.get(values.get("data.task.kind"))
    if not (mixer.causal or (task and task.both_sides)):
        fail(
            "causal",
            "sees the tokens that are to be predicted: train it with "
            "data.task.kind=masked, or take True",
        )


def _check_record(names: tuple[str, ...]) -> None:
    """Raise for a writer of metrics that there is not, or that is not installed."""
    from lm.writers import WRITERS

    for name in names:
        choose("run.record", name, WRITERS)
        package = WRITERS[name].package
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"run.record={name!r} needs a package that is not installed: "
                f"pip install {package}"
            )


def _check_batch(values: dict[str, Any]) -> None:
    """Raise where batch, context, evaluation, devices or learned positions disagree."""
    context, batch = values["data.context"], values["train.batch_tokens"]
    micro, chunk = values["train.micro_tokens"], values["eval.stream_chunk"]
    if batch % context:
        below, above = batch // context * context, -(-batch // context) * context
        raise ConfigError(
            f"train.batch_tokens={batch} is not a multiple of data.context={context}; "
            f"take {below or above} or {above}"
        )
    if micro is not None and micro < context:
        raise ConfigError(
            f"train.micro_tokens={micro} holds no row of data.context={context} "
            f"tokens; take at least {context}"
        )
    if chunk > context and "data.task.kind" not in values:
        raise ConfigError(
            f"eval.stream_chunk={chunk} is above data.context={context}; "
            f"take at most {context}"
        )
    carries = values["train.state"] == "carry" and values["model.position"] == "learned"
    if carries and (values["data.max_document"] or math.inf) > context:
        raise ConfigError(
            "train.state='carry' counts positions on from batch to batch, and the "
            f"table of model.position='learned' ends at data.context={context}: add "
            f"--config.data.max_document={context} or take model.position=none"
        )
    data, fsdp = values["mesh.data"], values["mesh.fsdp"]
    if data == fsdp == -1:
        raise ConfigError("mesh.data=-1 and mesh.fsdp=-1: only one can take the rest")
    devices = max(data, 1) * max(fsdp, 1)
    if batch // context % devices:
        raise ConfigError(
            f"mesh.data={data} and mesh.fsdp={fsdp} do not divide the "
            f"{batch // context} rows of a batch (train.batch_tokens={batch}, "
            f"data.context={context})"
        )
