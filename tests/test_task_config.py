"""The config of a task: what it refuses, keeps and drops, and its fingerprint."""

import hashlib
import json
import math

import pytest

from lm import config as configs
from lm.config import ConfigError
from lm.data import prepare
from tests import runs

BASE = str(runs.ROOT / "configs/base.py")
TESTS = {"x2": {"length": 16}, "rows": {"held_out": 5}}
FIELDS = {"kind": "parity", "length": 8, "held_out": 7, "tests": TESTS}


def load(fields=FIELDS, context=8, **changes):
    """The unresolved config of a run on a task; `__` in a name stands for a dot."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    sizes = {"data.context": context, "train.batch_tokens": 4 * context}
    return configs.load(BASE, {"data.task": fields} | sizes | dotted)


def config(*args, **changes):
    return configs.resolve(load(*args, **changes))


KEYS = "train.duration optim.warmup optim.decay train.polyak_start eval.every "
KEYS += "run.checkpoint_every run.log_every"


@pytest.mark.parametrize("key", KEYS.split())
def test_an_epoch_without_examples_is_refused_by_key(key):
    words = rf"{key}='0.5 epochs'.*'parity'.*count steps, or set data\.task\.examples"
    with pytest.raises(ConfigError, match=words):
        configs.resolve(configs.override(load(), {key: "0.5 epochs"}))
    config(FIELDS | {"examples": 400}, **{key: "0.5 epochs"})


def arithmetic(length):
    return {"kind": "modular_arithmetic", "length": length}


LONGER = {"kind": "mqar", "tests": {"x2": {"vocabulary": 256}}}
REFUSED = {
    "unknown kind": ({"kind": "partiy"}, r"kind='partiy': did you mean 'parity'\?"),
    "unknown field": (
        {"kind": "parity", "lenght": 3},
        r"data\.task\.lenght; did you mean data\.task\.length\?",
    ),
    "field of a test": (
        {"kind": "parity", "tests": {"x2": {"lenght": 3}}},
        r"tests\.x2\.lenght; did you mean data\.task\.tests\.x2\.length\?",
    ),
    "examples of a test": (
        {"kind": "parity", "tests": {"x2": {"examples": 3}}},
        r"unknown key data\.task\.tests\.x2\.examples",
    ),
    "no kind": ({"length": 3}, r"data\.task\.length .*data\.task\.kind: give it too"),
    "no number": ({"kind": "parity", "length": "long"}, r"length='long': expected int"),
    "choice": (
        {"kind": "word_problem", "group": "s4"},
        r"data\.task\.group='s4': valid are s3, s5, a5, z60",
    ),
    "choice of a test": (
        {"kind": "mqar", "tests": {"r": {"filler": "none"}}},
        r"data\.task\.tests\.r\.filler='none': valid are",
    ),
    "contradiction": (arithmetic(8), r"data\.task\.length=8 must be odd"),
    "contradiction of a test": (
        arithmetic(9) | {"tests": {"x2": {"length": 18}}},
        r"data\.task\.tests\.x2\.length=18 must be odd",
    ),
    "vocabulary of a test": (
        LONGER,
        r"tests\.x2 has 256 tokens.*training 128: a test has training",
    ),
    "zero": ({"kind": "parity", "length": 0}, r"task\.length=0 must be at least 1"),
    "no examples": ({"kind": "parity", "examples": 0}, r"examples=0 must be at least"),
    "zero of a test": (
        {"kind": "parity", "tests": {"x2": {"held_out": 0}}},
        r"data\.task\.tests\.x2\.held_out=0 must be at least 1",
    ),
    "endless": ({"kind": "mqar", "power": math.inf}, r"power=inf must be .*finite"),
    "no number at all": ({"kind": "mqar", "power": math.nan}, r"power=nan must be"),
    "same": (
        {"kind": "parity", "tests": {"same": {"length": 3}}},
        r"data\.task\.tests\.same is training's own: give the test another name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line_with_key_value_and_fix(case):
    fields, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words) as caught:
        config(fields)
    assert "\n" not in str(caught.value)


def test_rows_of_the_task_are_those_of_the_batch_and_state_is_not_carried():
    with pytest.raises(ConfigError) as caught:
        config(context=16)
    words = str(caught.value)
    assert "data.context=16, and a row of data.task.kind='parity' has 8" in words
    fix = dict(word.split("=") for word in words.split() if word.startswith("--"))
    fix = {key.removeprefix("--config."): value for key, value in fix.items()}
    assert fix == {"data.context": "8", "train.batch_tokens": "32"}
    configs.resolve(configs.override(load(context=16), fix))
    with pytest.raises(ConfigError, match=r"train\.state='carry'.*take reset"):
        config(train__state="carry")


def test_another_kind_drops_the_fields_of_the_one_before():
    changed = configs.override(load(), {"data.task.kind": "induction"})
    assert "tests" not in changed.data.task
    assert changed.data.task.to_dict() == {
        "kind": "induction",
        "examples": None,
        "held_out": 512,
        "length": 64,
        "vocabulary": 16,
    }
    kept = configs.override(load(), {"data.task.kind": "parity"})
    assert kept.data.task.length == 8 and kept.data.task.tests.x2.length == 16


def test_a_config_of_a_task_survives_its_file_and_resolving_again():
    found = config(FIELDS | {"examples": 40})
    again = configs.resolve(configs.from_json(configs.to_json(found)))
    assert configs.to_json(again) == configs.to_json(configs.resolve(again))
    assert configs.fingerprint(again) == configs.fingerprint(found)
    assert prepare(again.data).fingerprint == prepare(found.data).fingerprint
    assert prepare(again.data).tests == prepare(found.data).tests


def test_every_field_of_a_task_and_its_tests_changes_the_fingerprints():
    changes = [
        {},
        {"examples": 40},
        {"held_out": 8},
        {"tests": {"x2": {"length": 18}}},
        {"tests": {"x3": {"length": 16}}},
    ]
    found = [config(FIELDS | change) for change in changes]
    assert len({configs.fingerprint(c) for c in found}) == len(changes)
    assert len({prepare(c.data).fingerprint for c in found}) == len(changes)


def test_a_run_on_text_has_the_fingerprint_that_it_had_before_there_were_tasks():
    text = configs.resolve(configs.load(BASE))
    assert not [key for key in configs.flatten(text) if key.startswith("data.task")]
    kept = {k: v for k, v in configs.flatten(text).items() if configs.changes_result(k)}
    later = "conv_width token_types embedding_norm output_layer output_bias "
    later += "embedding_scale logit_cap mixers.attention.output_bias "
    later += "mixers.attention.causal mixers.attention.rope_scaling "
    later += "mixers.attention.qk_norm_eps"
    for name in later.split():  # and every key to come
        del kept[f"model.{name}"]
    for name in ("source", "target", "dialogue"):
        del kept[f"data.{name}"]
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    assert digest.startswith("d3eb31f679e9")
