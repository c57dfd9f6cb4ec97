import json
from pathlib import Path

import pytest

import lm
from lm import config as configs
from lm import experiment as experiments
from lm.config import ConfigError
from lm.experiment import Ladder, Match

ROOT = Path(lm.__file__).parent.parent
FLAGSHIP = ROOT / "experiments" / "rnn_vs_attention.py"
TEXT = '''
"""A small experiment."""
from lm.config import load
from lm.experiment import Match, Runs
from lm.stats import Claim, lower

QUESTION = "Which is better?"
ARMS = {"attention": ("attention",), "lstm": ("lstm",)}
AXES = ("model.pattern", "optim.lr", "seed")
MATCH = Match("params", 130_000, by="model.mlp_width")


def runs(tier):
    return {"tiny": Runs(load("configs/base.py"), (0,), 1e-3, (MATCH,))}[tier]


CLAIMS = (Claim("one is better", lower("lstm", "attention")),)
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write an experiment file with replacements -> loaded."""
    monkeypatch.chdir(ROOT)

    def make(*replacements):
        text = TEXT
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "experiment.py"
        path.write_text(text)
        return experiments.load(path)

    return make


def arms_of(experiment, tier="tiny"):
    runs = experiments.tier_runs(experiment, tier)
    return experiments.arm_configs(experiment, runs)


def test_arms_are_the_base_but_for_their_pattern(write):
    arms = arms_of(write())
    assert [c.model.pattern for c in arms.values()] == [("attention",), ("lstm",)]
    keys = {k for k, *_ in experiments.differences(arms["attention"], arms["lstm"])}
    assert keys == {"model.pattern"}


LSTM = '"lstm": ("lstm",)'


def test_an_undeclared_difference_is_refused_and_named(write):
    decayed = '"lstm": {"model.pattern": ("lstm",), "optim.weight_decay": 0.01}'
    with pytest.raises(ConfigError, match=r"'lstm'.*optim\.weight_decay.*0\.01.*0\.1"):
        arms_of(write((LSTM, decayed)))
    declared = ('"seed")', '"seed", "optim.weight_decay")')
    assert arms_of(write((LSTM, decayed), declared))["lstm"].optim.weight_decay == 0.01
    recipes = ("ARMS =", 'KIND = "recipes"\nARMS =')
    assert arms_of(write((LSTM, decayed), recipes))["lstm"].optim.weight_decay == 0.01


def test_a_mixer_set_differently_in_two_arms_is_refused(write):
    other = (
        '"a+lstm": {"model.pattern": ("attention", "lstm"), '
        '"model.mixers.attention.heads": 2}'
    )
    with pytest.raises(ConfigError, match=r"model\.mixers\.attention\.heads"):
        arms_of(write((LSTM, f"{LSTM}, {other}")))


def test_the_fitted_key_is_the_one_declared_exception(write):
    wide = '"lstm": {"model.pattern": ("lstm",), "model.mlp_width": 99}'
    assert arms_of(write((LSTM, wide)))["lstm"].model.mlp_width == 99
    by_width = ('Match("params", 130_000, by="model.mlp_width")', 'Match("width")')
    with pytest.raises(ConfigError, match=r"model\.mlp_width"):
        arms_of(write((LSTM, wide), by_width))


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("Which is better?", "Which is worse?", True),
        ("130_000", "131_000", True),
        ("1e-3", "2e-3", True),
        ('lower("lstm", "attention")', 'lower("attention", "lstm")', True),
        ('("lstm",)', '("gru",)', True),
        ("A small experiment", "Another text", False),
        ("QUESTION", "# a comment\nQUESTION", False),
    ],
)
def test_the_hash_covers_what_a_result_depends_on(write, old, new, changes):
    assert (write().hash != write((old, new)).hash) == changes


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (("AXES =", "AXIS ="), "lacks AXES"),
        (('lower("lstm", "attention")', 'lower("lsmt", "attention")'), "'lsmt'"),
        (('"params", 130', '"parms", 130'), "'parms'"),
        (('by="model.mlp_width"', "by=None"), "needs target and by"),
        (("QUESTION =", "1 / 0\nQUESTION ="), r"experiment\.py:7.*ZeroDivisionError"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, replacement, message):
    with pytest.raises(ConfigError, match=message):
        arms_of(write(replacement))


def test_an_unknown_tier_is_refused(write):
    with pytest.raises(ConfigError, match="huge"):
        arms_of(write(), "huge")


def test_a_ladder_is_geometric_and_grows_where_the_best_is():
    ladder = Ladder(start=1e-3, ratio=2)
    assert [ladder.rate(k) for k in (0, 1, 3)] == [1e-3, 2e-3, 8e-3]
    assert ladder.rate(-1) == 5e-4
    assert ladder.extended([0, 1, 2, 3, 4, 5], best=5) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ladder.extended([0, 1, 2, 3, 4, 5], best=1) == [-2, -1, 0, 1, 2, 3, 4, 5]
    assert ladder.extended(list(range(9)), best=8) == list(range(10))
    with pytest.raises(ConfigError, match="at least 6"):
        Ladder(start=1e-3, rungs=5)
    with pytest.raises(ConfigError, match="1000"):
        Ladder(start=1e-3, seeds=(0,))


def test_width_is_a_match_without_a_target():
    Match("width")
    with pytest.raises(ConfigError):
        Match("width", 64)


CELLS = 'CELLS = {"d16": {"model.width": 16}, "d32": {"model": {"width": 32}}}'
IN_CELLS = ("ARMS =", f"{CELLS}\nARMS =")
IN_D16 = ('lower("lstm", "attention")', 'lower("lstm@d16", "attention@d16")')
AT_LEAST = ("import Claim, lower", "import Claim, at_least, lower")


def stated(criterion: str) -> tuple[str, str]:
    return ('lower("lstm", "attention")', criterion)


def test_cells_repeat_every_arm_with_their_keys(write):
    experiment = write(IN_CELLS, IN_D16)
    assert experiment.arms == {
        "attention@d16": ("attention", "d16"),
        "lstm@d16": ("lstm", "d16"),
        "attention@d32": ("attention", "d32"),
        "lstm@d32": ("lstm", "d32"),
    }
    assert (experiment.reference, experiment.tune) == ("d32", "once")
    arms = arms_of(experiment)
    found = {n: (c.model.pattern[0], c.model.width) for n, c in arms.items()}
    assert found == {
        "attention@d16": ("attention", 16),
        "lstm@d16": ("lstm", 16),
        "attention@d32": ("attention", 32),
        "lstm@d32": ("lstm", 32),
    }
    only = ("(MATCH,))", '(MATCH,), ("lstm",))')
    assert list(arms_of(write(IN_CELLS, IN_D16, only))) == ["lstm@d16", "lstm@d32"]


def test_arms_of_one_cell_differ_in_axes_and_the_fitted_key_alone(write):
    def lstm(changes):
        return (LSTM, f'"lstm": {{"model.pattern": ("lstm",), {changes}}}')

    in_cells = (IN_CELLS, IN_D16)
    arms = arms_of(write(*in_cells, lstm('"model.mlp_width": 99')))
    assert arms["lstm@d16"].model.mlp_width == 99
    decayed = lstm('"optim.weight_decay": 0.01')
    words = r"'lstm@d16' differs from 'attention@d16' in optim\.weight_decay"
    with pytest.raises(ConfigError, match=words):
        arms_of(write(*in_cells, decayed))
    # A key of the cells is none that arms may differ in.
    with pytest.raises(ConfigError, match=r"'lstm@d16'.*model\.width \(24 against 16"):
        arms_of(write(*in_cells, lstm('"model.width": 24')))


@pytest.mark.parametrize("place", ["an arm", "a cell", "recipes"])
@pytest.mark.parametrize("change", ['"optim.lr": 1e-2', '"optim": {"lr": 1e-2}'])
def test_a_rate_of_an_arms_or_cells_own_is_an_unequal_grid(write, place, change):
    arm = (LSTM, f'"lstm": {{"model.pattern": ("lstm",), {change}}}')
    cell = ('"d16": {', f'"d16": {{{change}, ')
    changes, name = {
        "an arm": ([arm], "lstm"),
        "a cell": ([IN_CELLS, IN_D16, cell], "d16"),
        "recipes": ([("ARMS =", 'KIND = "recipes"\nARMS ='), arm], "lstm"),
    }[place]
    words = rf"'{name}' sets optim\.lr for itself, an unequal grid.*runs\(tier\)"
    with pytest.raises(ConfigError, match=words):
        write(*changes)
    seed = [(old, new.replace(change, '"seed": 3')) for old, new in changes]
    with pytest.raises(ConfigError, match=rf"'{name}' sets seed for itself"):
        write(*seed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('REFERENCE = "d61"', r"REFERENCE='d61': did you mean 'd16'\? valid are d16"),
        ('TUNE = "percell"', r"TUNE='percell': did you mean 'per cell'\?"),
        ('KIND = "recipe"', r"KIND='recipe': did you mean 'recipes'\?"),
    ],
)
def test_names_that_an_experiment_cannot_have_are_refused(write, line, message):
    cells = ("ARMS =", f"{CELLS}\n{line}\nARMS =")
    with pytest.raises(ConfigError, match=message):
        write(cells, IN_D16)


def test_claims_name_an_arm_in_a_cell_or_a_threshold_in_all(write):
    for criterion in (
        'at_least(1, "x", "lstm")',
        'at_least(1, "x", "lstm@d32")',
        'at_least(1, "x")',
        'lower("lstm@d16", "lstm@d32")',
    ):
        assert write(IN_CELLS, AT_LEAST, stated(criterion)).claims
    for criterion, arm in (
        ('at_least(1, "x", "lstm@d64")', "lstm@d64"),
        ('at_least(1, "x", "lst")', "lst"),
        ('lower("lstm", "attention@d16")', "lstm"),
    ):
        words = rf"no arm is named '{arm}'.* valid are attention@d16, "
        with pytest.raises(ConfigError, match=words):
            write(IN_CELLS, AT_LEAST, stated(criterion))
    with pytest.raises(ConfigError, match="no arm is named 'lstm@d16'"):
        write(IN_D16)  # without cells


def test_the_hash_covers_cells_and_how_they_are_tuned(write):
    reference, tune = 'REFERENCE = "d16"', 'TUNE = "per cell"'
    found = {
        write(("ARMS =", "\n".join([*lines, "ARMS ="])), IN_D16).hash
        for lines in (
            [CELLS],
            [CELLS.replace('"width": 32', '"width": 64')],
            [CELLS, reference],
            [CELLS, tune],
            [CELLS, reference, tune],
        )
    }
    assert len(found) == 5


def test_matches_are_of_parameters_without_embeddings_and_seconds_of_durations():
    match = Match(target=1000, by="model.mlp_width")
    assert match.quantity == "params_non_embedding"
    Match("seconds", 9.0, by="train.duration")
    for quantity, by in (("seconds", "model.width"), ("params", "train.duration")):
        words = rf"'{quantity}' by '{by}': seconds are fitted by train\.duration"
        with pytest.raises(ConfigError, match=words):
            Match(quantity, 1000, by=by)


def test_a_ladder_goes_by_a_figure_of_validation():
    assert Ladder(1e-3, by="validation.window.nats_per_token").by
    with pytest.raises(ConfigError, match=r"'test\.window.*chosen on validation"):
        Ladder(1e-3, by="test.window.bits_per_byte")


@pytest.mark.parametrize("tier", ["smoke", "tiny", "small"])
def test_every_tier_of_the_flagship_is_a_controlled_comparison(tier, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = experiments.load(FLAGSHIP)
    arms = arms_of(experiment, tier)
    if tier == "tiny":
        assert len(arms) == 4
    if tier == "small":
        used = {name for c in arms.values() for name in c.model.pattern}
        assert used == {"attention", "window", "lstm", "gru", "rglru"}
        runs = experiments.tier_runs(experiment, tier)
        assert [match.quantity for match in runs.matches] == ["params", "width"]


FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("tier", ["smoke", "tiny"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_is_what_its_kind_says(path, tier, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = experiments.load(path)
    arms = arms_of(experiment, tier)  # refuses keys that are not declared
    assert len(arms) >= 2 and experiment.paper
    with pytest.raises(ConfigError, match="--tier=none: .* has no such tier"):
        experiments.tier_runs(experiment, "none")


def test_the_regularisers_of_awd_lstm_are_all_that_its_arms_differ_in(monkeypatch):
    monkeypatch.chdir(ROOT)
    arms = arms_of(experiments.load(ROOT / "experiments" / "awd_lstm.py"))
    dry = {key: 0.0 for key in configs.flatten(arms["lstm"]) if "dropout" in key}
    del dry["model.dropout_mask"]
    dry |= {"loss.ar": 0.0, "loss.tar": 0.0, "train.average": "none"}
    rows = configs.diff(arms["awd-lstm"], arms["lstm"])
    assert {key: now for key, was, now in rows} == dry


def test_committed_results_belong_to_their_files():
    plans = sorted((ROOT / "experiments" / "results").glob("*/plan.json"))
    assert plans
    for path in plans:
        plan = json.loads(path.read_text())
        found = experiments.content_hash(ROOT / plan["experiment"])
        assert found == plan["experiment_hash"], f"{path.parent} is of another file"


def test_resolved_arms_survive_json(write):
    arms = arms_of(write())
    for config in arms.values():
        again = configs.from_json(configs.to_json(config))
        assert configs.fingerprint(again) == configs.fingerprint(config)
