import dataclasses
import json
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from benchmarks import architectures
from lm import config as configs
from lm import count
from lm import model as models
from lm.config import ConfigError, schema
from lm.mixers import MIXERS, Mixer

FILES = sorted(path.name for path in Path(configs.BASE).parent.glob("*.py"))


def base(**changes):
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return configs.load("configs/base.py", dotted)


def spec(name, tmp_path):
    """The spec of a file in configs/; nanogpt.py wants a text, pretrained a model."""
    if name == "pretrained.py":
        fields = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 64}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        (tmp_path / "tokenizer.json").write_text("read when the text is")
        return f"configs/{name}:{tmp_path}"
    if name != "nanogpt.py":
        return f"configs/{name}"
    (tmp_path / "text.txt").write_text("some text")
    return f"configs/nanogpt.py:{tmp_path / 'text.txt'}"


@pytest.mark.parametrize("name", FILES)
def test_every_config_resolves_and_resolving_is_idempotent(name, tmp_path):
    resolved = configs.resolve(configs.load(spec(name, tmp_path)))
    assert configs.resolve(resolved) == resolved
    assert resolved.name.split("-")[0] == name.removesuffix(".py")
    assert set(resolved.model.mixers) == set(resolved.model.pattern)
    with pytest.raises(AttributeError):
        resolved.model.depth = 3
    with pytest.raises(TypeError):
        resolved.model.pattern[0] = "lstm"


SMALL = architectures.names()


def test_every_mixer_has_an_architecture():
    used = set()
    for name in SMALL:
        mixers = configs.resolve(configs.load(f"configs/{name}.py")).model.mixers
        used |= {fields.kind for fields in mixers.values()}
    assert used == MIXERS.keys()


@pytest.mark.parametrize("name", SMALL)
def test_an_architecture_is_as_small_and_as_good_as_its_header_says(name):
    config = configs.resolve(configs.load(f"configs/{name}.py"))
    params = count.params(models.build(config, 256))["params"]
    assert 0.38e6 < params < 0.45e6
    measured = json.loads(architectures.RESULTS.read_text())["rows"]
    (row,) = [row for row in measured if row["name"] == name]
    assert (row["status"], row["params"]) == ("done", params)
    assert row["test"] < 2.8
    said = re.findall(r"(\S+) bits per byte", Path(f"configs/{name}.py").read_text())
    assert said == [f"{row['test']:.2f}"]


def test_the_published_size_is_an_argument():
    model = configs.resolve(configs.load("configs/gpt2.py:124M")).model
    assert (model.depth, model.width, model.mlp_width) == (12, 768, 3072)
    assert model.mixers.attention.heads == 12


# Millions: of arXiv 1810.04805 section 3, and of arXiv 2005.14165 table D.1.
PUBLISHED = [
    ("bert.py:base", 30_522, 110),
    ("gpt2.py:124M", 50_257, 124),
    ("gpt3.py:small", 50_257, 125),
    ("gpt3.py:ada", 50_257, 356),
    ("gpt3.py:large", 50_257, 760),
    ("gpt3.py:babbage", 50_257, 1320),
    ("gpt3.py:2.7b", 50_257, 2650),
    ("gpt3.py:curie", 50_257, 6660),
    ("gpt3.py:13b", 50_257, 12_850),
    ("gpt3.py:davinci", 50_257, 174_600),
]


@pytest.mark.parametrize(("name", "vocab_size", "millions"), PUBLISHED)
def test_published_sizes_have_the_published_parameters(name, vocab_size, millions):
    config = configs.resolve(configs.load(f"configs/{name}"))
    params = count.params(models.build(config, vocab_size))["params"]
    assert params == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize(
    "key, near",
    [
        ("model.dpeth", "model.depth"),
        ("optim.depth", "model.depth"),
        ("lr", "optim.lr"),
        ("modle.depth", "model.depth"),
        ("model.heads", "model.mixers.attention.heads"),
        ("model.mixers.attention.haeds", "model.mixers.attention.heads"),
        ("model.mixers.atention.window", "model.mixers.attention.window"),
        ("train.batch_token", "train.batch_tokens"),
    ],
)
def test_unknown_key_has_the_nearest_of_all_keys(key, near):
    with pytest.raises(ConfigError, match=re.escape(f"{key}; did you mean {near}?")):
        configs.load("configs/base.py", {key: "3"})


@pytest.mark.parametrize(
    "key, value, kind, example",
    [
        ("model.depth", "abc", "int", "2"),
        ("model.depth", "3.5", "int", "2"),
        ("model.depth", 3.5, "int", "2"),
        ("model.depth", True, "int", "2"),
        ("model.depth", None, "int", "2"),
        ("optim.lr", "fast", "float", "0.006"),
        ("model.tied", "yes", "bool", "True"),
        ("model.norm", 3, "str", "'rmsnorm'"),
        ("model.pattern", "('lstm'", "tuple of str", "('attention',)"),
        ("model.pattern", 3, "tuple of str", "('attention',)"),
        ("data.train_bytes", "1MB", "int or None", "64"),
        ("model.mixers.attention.window", "wide", "int or None", "64"),
        ("model.mixers.rglru.lru_width", 0.5, "int or None", "64"),
    ],
)
def test_wrong_type_names_key_value_type_and_example(key, value, kind, example):
    words = f"{key}={value!r}: expected {kind}, for example {example}"
    with pytest.raises(ConfigError, match=re.escape(words)):
        configs.load("configs/base.py", {key: value})


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("model.depth", "3", 3),
        ("optim.lr", "1", 1.0),
        ("optim.lr", 1, 1.0),
        ("optim.lr", "3e-3", 3e-3),
        ("model.tied", "false", False),
        ("model.pattern", "lstm,attention", ("lstm", "attention")),
        ("model.pattern", "('lstm', 'attention')", ("lstm", "attention")),
        ("model.pattern", ["lstm"], ("lstm",)),
        ("data.split", "0.8,0.1,0.1", (0.8, 0.1, 0.1)),
        ("data.train_bytes", "1000", 1000),
        ("data.train_bytes", "None", None),
        ("model.position", "none", "none"),
        ("model.mixers.attention.window", "64", 64),
    ],
)
def test_a_text_is_parsed_by_the_type_of_its_key(key, text, value):
    found = configs.flatten(configs.load("configs/base.py", {key: text}))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_has_an_entry_with_the_defaults_of_its_class(name):
    entry = base().model.mixers[name]
    fields = {field.name: field.default for field in dataclasses.fields(MIXERS[name])}
    own = set(fields) - {"width", "layers", "dtype", "parent", "name"}
    assert dict(entry) == {key: fields[key] for key in own} | {"kind": name}


def test_a_registered_mixer_needs_no_other_entry(monkeypatch):
    class Toy(Mixer):
        size: int | None = None
        rates: tuple[float, ...] = (0.5,)

    monkeypatch.setitem(MIXERS, "toy", Toy)
    changes = dict(model__pattern="toy", model__mixers__toy__rates="1,2")
    found = configs.resolve(base(**changes)).model.mixers.toy
    assert found.to_dict() == dict(kind="toy", size=None, rates=(1.0, 2.0))


def test_an_entry_of_ones_own_is_completed_from_its_kind():
    changes = dict(model__pattern="window", model__mixers__window__window=64)
    with pytest.raises(ConfigError, match="a new entry of model.mixers needs its kind"):
        base(**changes)
    entry = dict(kind="attention", window=64)
    config = base(model__pattern="window", model={"mixers": {"window": entry}})
    attention = dict(config.model.mixers.attention)
    assert dict(config.model.mixers.window) == attention | entry
    assert configs.resolve(config).model.mixers.keys() == ["window"]


def test_another_kind_replaces_the_entry():
    config = configs.load("configs/griffin.py", {"model.mixers.window.kind": "gru"})
    gru = dict(config.model.mixers.gru)
    assert dict(config.model.mixers.window) == gru
    with pytest.raises(ConfigError, match="unknown key model.mixers.window.window"):
        changes = {"model.mixers.window.window": 3, "model.mixers.window.kind": "gru"}
        configs.load("configs/griffin.py", changes)


def test_override_keeps_what_it_is_given_and_undoes_flatten():
    config = base()
    other = configs.load("configs/griffin.py")
    assert configs.override(config, configs.flatten(other)) == other
    assert config == base()


def test_overrides_may_come_in_any_order_and_as_texts():
    pairs = ["model.mixers.w.window=9", "model.mixers.w.kind=attention", "seed=3"]
    one, other = (configs.load("configs/base.py", p) for p in (pairs, pairs[::-1]))
    assert one == other
    assert (one.model.mixers.w.window, one.seed) == (9, 3)
    with pytest.raises(ConfigError, match="key=value"):
        configs.load("configs/base.py", ["seed"])


def test_a_key_that_may_be_none_keeps_its_type():
    config = base()
    with pytest.raises(TypeError):
        config.model.mixers.attention.window = "wide"
    config.model.mixers.attention.window = 3
    assert configs.resolve(config).model.mixers.attention.window == 3


def another(key, value):
    """Some other value of the type of a key."""
    want = schema.keys(base(), {})[key]
    if value is None:
        return {str: "x", bool: True}.get(want.kind, 7)
    if value == ():
        return ("x",) if want.item is str else (2.0,)
    if isinstance(value, tuple):
        return value[::-1] + value
    return {bool: not value, int: 7, float: 0.123, str: "x"}[type(value)]


def test_fingerprint_is_over_the_keys_that_change_the_result():
    config = base()
    before = configs.fingerprint(config)
    assert re.fullmatch("[0-9a-f]{12}", before)
    for key, value in configs.flatten(config).items():
        if not key.endswith(".kind"):
            changed = configs.override(config, {key: another(key, value)})
            free = key.split(".")[0] in ("run", "mesh", "name") or key in (
                "data.cache",
                "data.tfds_dir",
                "train.micro_tokens",
            )
            assert (configs.fingerprint(changed) == before) == free, key


def test_fingerprint_survives_the_file():
    config = configs.resolve(configs.load("configs/griffin.py"))
    back = configs.from_json(configs.to_json(config))
    assert back == config
    assert configs.resolve(back) == config
    assert configs.fingerprint(back) == configs.fingerprint(config)


def test_diff_names_every_differing_key():
    a = base()
    b = base(optim__lr=1.0, model__pattern="lstm")
    assert configs.diff(a, a) == []
    assert configs.diff(a, b) == [
        ("model.pattern", ("attention",), ("lstm",)),
        ("optim.lr", 6e-3, 1.0),
    ]
    rows = {row[0]: row[1:] for row in configs.diff(*map(configs.resolve, (a, b)))}
    assert rows["model.mixers.lstm.hidden"] == (configs.ABSENT, None)


@pytest.mark.parametrize(
    "text, words",
    [
        ("x = 1", "has no function get_config"),
        ("def get_config(): return 3", "must return a ConfigDict"),
        ("def get_config():\n  return nme", "bad.py:2: NameError: name 'nme'"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(path): pass", "write {}:PATH"),
        ("import no_such_module", "bad.py:1: ModuleNotFoundError"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, words):
    (tmp_path / "bad.py").write_text(text)
    path = str(tmp_path / "bad.py")
    with pytest.raises(ConfigError, match=re.escape(words.format(path))) as error:
        configs.load(path)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_has_the_nearest():
    with pytest.raises(ConfigError, match="did you mean configs/gpt2.py"):
        configs.load("configs/gpt.py")


def test_a_config_file_has_the_keys_of_base_and_no_others(tmp_path):
    head = "from configs import base\ndef get_config():\n  c = base.get_config()\n"
    (tmp_path / "x.py").write_text(head + "  c.model.dpeth = 3\n  return c")
    with pytest.raises(ConfigError, match="dpeth; did you mean model.depth"):
        configs.load(str(tmp_path / "x.py"))
    (tmp_path / "y.py").write_text(head + "  del c.model.depth\n  return c")
    with pytest.raises(ConfigError, match="lacks model.depth"):
        configs.load(str(tmp_path / "y.py"))
    with pytest.raises(ConfigError, match="lacks data.cache|lacks name"):
        configs.resolve(ConfigDict(dict(seed=1)))
