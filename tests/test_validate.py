import re

import pytest

from lm import config as configs
from lm.config import ConfigError


def base(**changes):
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return configs.load("configs/base.py", dotted)


CONTRADICTIONS = [
    (dict(model__depth=0), "model.depth=0 must be at least 1"),
    (dict(model__width=-64), "model.width=-64"),
    (dict(model__pattern=()), "model.pattern=()"),
    (dict(model__pattern="lstm,gru,lstm"), "model.depth=2"),
    (dict(model__pattern="atention"), "did you mean 'attention'"),
    (dict(model__width=66), "heads=4 does not divide model.width=66"),
    (dict(model__width=12), "needs an even head width, and it is 3"),
    (dict(model__mixers__attention__heads=0), "heads=0 must be at least 1"),
    (dict(model__mixers__attention__kv_heads=3), "kv_heads=3 does not divide"),
    (dict(model__mixers__attention__window=0), "window=0 must be at least 1"),
    (dict(model__mixers__attention__dropout=1.0), "dropout=1.0 must be in [0, 1)"),
    (dict(model__mixers__attention__rope_theta=0.0), "rope_theta=0.0"),
    (dict(model__mixers__attention__position="learned"), "valid are rope, rope_i"),
    (
        dict(model__pattern="rglru", model__mixers__rglru__lru_width=66),
        "heads=4 does not divide model.mixers.rglru.lru_width=66",
    ),
    (dict(model__pattern="w", model__mixers__w__kind="atention"), "'attention'"),
    (dict(model__mixers__lstm__kind="gru"), "lstm is a mixer; rename the entry"),
    (dict(model__residual_dropout=1.0), "model.residual_dropout=1.0"),
    (dict(model__embedding_dropout=-0.1), "model.embedding_dropout=-0.1"),
    (dict(model__mlp="swigloo"), "did you mean 'swiglu'? valid are swiglu, gelu, none"),
    (dict(model__norm="rms"), "valid are rmsnorm, layernorm"),
    (dict(model__position="rope"), "valid are none, learned"),
    (dict(model__dtype="float16"), "valid are float32, bfloat16"),
    (dict(model__matmul_precision="low"), "valid are default, high, highest"),
    (dict(model__remat="half"), "valid are none, full, dots"),
    (dict(optim__schedule="cosin"), "did you mean 'cosine'"),
    (dict(optim__lr=-1e-3), "optim.lr=-0.001 must be positive"),
    (dict(optim__lr="nan"), "optim.lr=nan must be positive"),
    (dict(optim__weight_decay=-0.1), "optim.weight_decay=-0.1"),
    (dict(optim__final_lr=2.0), "optim.final_lr=2.0"),
    (dict(loss__ar=-1.0), "loss.ar=-1.0 must be 0 or more"),
    (dict(loss__tar=1.0), "add --config.model.norm=none"),
    (
        dict(model__pattern="lstm", model__mixers__lstm__weight_dropout=1.0),
        "weight_dropout=1.0 must be in [0, 1)",
    ),
    (dict(model__word_dropout=1.0), "model.word_dropout=1.0"),
    (dict(model__output_dropout=1.0), "model.output_dropout=1.0"),
    (dict(model__dropout_mask="rows"), "token, sequence"),
    (dict(loss__label_smoothing=1.0), "loss.label_smoothing=1.0 must be in [0, 1)"),
    (dict(loss__z_loss=-1e-4), "loss.z_loss=-0.0001 must be 0 or more"),
    (dict(optim__b2=1.0), "optim.b2=1.0"),
    (dict(optim__momentum=1.0), "optim.momentum=1.0"),
    (dict(train__average="mean"), "train.average='mean'"),
    (dict(train__ema_decay=1.0), "train.ema_decay=1.0 must be between 0 and 1"),
    (
        dict(train__average="polyak", train__polyak_start="400 steps"),
        "train.polyak_start='400 steps' is 400 steps",
    ),
    (
        dict(optim__name="schedule_free", train__average="ema"),
        "add --config.train.average=none",
    ),
    (dict(optim__name="moun"), "did you mean 'muon'"),
    (dict(optim__name="schedule_free"), "add --config.optim.schedule=constant"),
    (
        dict(optim__name="schedule_free", optim__schedule="constant", optim__b1=0),
        "optim.b1=0.0: with optim.name='schedule_free'",
    ),
    (dict(optim__clip=0.0), "optim.clip=0.0"),
    (dict(optim__warmup="500 steps"), "'500 steps' is 500 steps, and train.duration"),
    (dict(optim__warmup="100%"), "shorten the warm-up"),
    (
        dict(optim__schedule="wsd", optim__warmup="50%", optim__decay="51%"),
        "optim.decay='51%' is 204 steps, which with the 200 of optim.warmup='50%'",
    ),
    (dict(train__duration="5%"), "nothing to be a percentage of"),
    (dict(train__duration="100 tokens"), "is not one step of train.batch_tokens=2048"),
    (dict(train__duration="0"), "train.duration='0'"),
    (dict(train__batch_tokens=2000), "take 1920 or 2048"),
    (dict(train__batch_tokens=100), "take 128 or 128"),
    (dict(train__micro_tokens=64), "train.micro_tokens=64"),
    (dict(train__state="cary"), "did you mean 'carry'? valid are reset, carry"),
    (
        dict(train__state="carry", model__position="learned", data__max_document=129),
        "ends at data.context=128: add --config.data.max_document=128",
    ),
    (
        dict(model__pattern="gla", model__mixers__gla__chunk=24),
        "chunk=24 must be a power of two",
    ),
    (dict(eval__stream_chunk=256), "eval.stream_chunk=256 is above data.context=128"),
    (dict(eval__every="0 steps"), "eval.every='0 steps' must be above 0"),
    (dict(run__checkpoint_every="never"), "run.checkpoint_every='never'"),
    (dict(run__log_every="1.5 steps"), "whole number of steps"),
    (dict(run__prompt=""), "run.prompt='' must be a text that is not empty"),
    (dict(data__corpus="bible"), "data.corpus='bible'"),
    (dict(data__corpus="text"), "needs data.path"),
    (dict(data__corpus="text", data__path="no/such*"), "data.path='no/such*'"),
    (dict(data__path="a.txt"), "--config.data.corpus=text"),
    (dict(run__accept_data="yes"), "run.accept_data='yes' must be the first 12 hex"),
    (dict(data__corpus="tfds"), "--config.data.path=wiki40b/en"),
    (dict(data__corpus="pystdlib", data__path="a"), "with data.corpus='pystdlib'"),
    (dict(data__tokenizer="byte"), "did you mean 'bytes'"),
    (dict(data__document="page"), "valid are file, line, paragraph"),
    (dict(data__invalid_utf8="drop"), "valid are replace, error, keep"),
    (dict(data__split=(0.9, 0.1)), "three positive fractions with sum 1"),
    (dict(data__split=(0.9, 0.1, 0.1)), "three positive fractions with sum 1"),
    (dict(data__split=(0.9, 0.1, 0.0)), "three positive fractions with sum 1"),
    (dict(data__max_document=0), "data.max_document=0"),
    (dict(mesh__data=0), "mesh.data=0"),
    (dict(mesh__fsdp=-1), "only one can take the rest"),
    (dict(mesh__fsdp=3), "do not divide the 16 rows"),
    (dict(seed=-1), "seed=-1"),
]


@pytest.mark.parametrize("changes, words", CONTRADICTIONS, ids=lambda x: str(x)[:40])
def test_a_contradiction_is_named(changes, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        configs.resolve(base(**changes))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, (400, 20, 80, 200, 100, 100, 10)),
        (dict(train__duration="400"), (400, 20, 80, 200, 100, 100, 10)),
        (dict(train__duration="8M tokens"), (3906, 195, 781, 1953, 976, 976, 10)),
        (dict(train__duration="1.5k steps"), (1500, 75, 300, 750, 375, 375, 10)),
        (dict(train__duration="1 step"), (1, 0, 0, 0, 1, 1, 10)),
        (dict(train__duration="2 epochs"), (100, 5, 20, 50, 25, 25, 10)),
        (
            dict(eval__every="1 epoch", optim__warmup="0"),
            (400, 0, 80, 200, 50, 100, 10),
        ),
        (
            dict(run__log_every="100%", eval__every="0.1%"),
            (400, 20, 80, 200, 1, 100, 400),
        ),
        (dict(optim__decay="4096 tokens"), (400, 20, 2, 200, 100, 100, 10)),
        (dict(train__polyak_start="90%"), (400, 20, 80, 360, 100, 100, 10)),
        (dict(optim__warmup="2048 tokens"), (400, 1, 80, 200, 100, 100, 10)),
    ],
)
def test_durations_are_resolved_to_steps(changes, expected):
    config = configs.resolve(base(**{"eval__every": "25%"} | changes))
    assert configs.durations(config, steps_per_epoch=50) == expected


@pytest.mark.parametrize(
    "text",
    ["400 stpes", "", "-5", "M tokens", "5k%", "101%", "8m tokens", "1e3", "4,0"],
)
def test_nonsense_is_no_duration(text):
    with pytest.raises(ConfigError, match=f"optim.warmup='{text}' is not a duration"):
        configs.resolve(base(optim__warmup=text))


def test_a_warmup_in_epochs_is_checked_once_their_length_is_known():
    config = configs.resolve(base(optim__warmup="1 epoch"))
    with pytest.raises(ConfigError, match="shorten the warm-up"):
        configs.durations(config, steps_per_epoch=400)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ((8.0, 1.0), r"must be \(\), \(factor,\) or"),
        ((0.0,), "must be of positive"),
        ((8.0, 4.0, 1.0, 64.0), "low below high"),
    ],
)
def test_a_scaling_of_rope_has_one_number_or_four(scaling, words):
    values = {"model.mixers.attention.rope_scaling": scaling}
    with pytest.raises(ConfigError, match=f"rope_scaling=.* {words}"):
        configs.resolve(configs.load("configs/base.py", values))
    configs.resolve(
        configs.load("configs/base.py", {k: "(8, 1, 4, 64)" for k in values})
    )
