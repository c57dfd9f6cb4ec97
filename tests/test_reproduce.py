"""`run.py reproduce`: what is run, what is kept, and that the README says the same."""

import json
from pathlib import Path

import pytest

from lm.config import ConfigError
from lm.report import index
from lm.sweep import reproduce
from tests import comparison

ROOT = Path(__file__).parent.parent
FILE = """
from lm.config import load
from lm.experiment import Match, Runs
QUESTION = "{question}"
ARMS = {{"lstm": ("lstm",)}}
AXES = ("seed",)
MATCH = Match("width")
def runs(tier):
    if tier != "tiny":
        raise KeyError(tier)
    return Runs(load("configs/base.py"), (0,), 1e-3, (MATCH,))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with experiments a and b; runs are made-up comparisons."""
    (tmp_path / "experiments").mkdir()
    for name in "ab":
        text = FILE.format(question=f"is it {name}?")
        (tmp_path / f"experiments/{name}.py").write_text(text)
    readme = f"before\n{index.BEGIN}{index.END}\nafter\n"
    (tmp_path / "README.md").write_text(readme)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    ran, fails = [], set()

    def compare(path, tier, out, dry, workers):
        ran.append(path.stem)
        if path.stem in fails:
            return 4
        assert not out.exists()  # of another file, else
        comparison.make(out)
        digest = reproduce.experiments.load(path).hash
        claims = {"experiment_hash": digest, "experiment": str(path), "claims": []}
        (out / "verdicts.json").write_text(json.dumps(claims))
        for name in ("report.md", "report.html"):
            (out / name).write_text("text")
        (out / "table.csv").write_text("run,seconds\nx,60\n")
        (out / "figures").mkdir(exist_ok=True)
        (out / "figures/new.png").write_bytes(b"")
        return 0

    monkeypatch.setattr(reproduce.compare, "compare", compare)

    def call(tier="tiny") -> int:
        ran.clear()
        results = Path("experiments/results")
        return reproduce.reproduce(
            Path("experiments"), results, tier, Path("README.md"), None
        )

    return call, ran, fails


def test_what_has_a_report_of_its_own_file_is_not_run_again(place):
    call, ran, _ = place
    assert call() == 0
    assert ran == ["a", "b"]
    kept = Path("experiments/results/a-tiny")
    assert {"plan.json", "verdicts.json", "report.html"} <= {
        path.name for path in kept.iterdir()
    }
    assert not (kept / "runs").exists()
    (kept / "figures/old.png").write_bytes(b"")
    assert call() == 0
    assert ran == []
    text = Path("experiments/a.py").read_text()
    Path("experiments/a.py").write_text(text.replace("is it", "was it"))
    assert call() == 0
    assert ran == ["a"]
    assert [path.name for path in (kept / "figures").iterdir()] == ["new.png"]


def test_a_comparison_with_lost_runs_is_not_kept_and_the_others_are(place):
    call, ran, fails = place
    fails.add("a")
    assert call() == 4
    assert ran == ["a", "b"]
    assert not Path("experiments/results/a-tiny").exists()
    assert Path("experiments/results/b-tiny/report.md").exists()
    fails.clear()
    assert call() == 0
    assert ran == ["a"]


def test_a_tier_that_an_experiment_lacks_is_said_and_passed_over(place, capsys):
    call, ran, _ = place
    assert call("full") == 0
    assert ran == []
    assert "a: --tier=full" in capsys.readouterr().out


def test_a_readme_without_its_place_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="end of verdicts"):
        index.with_verdicts("no place here", tmp_path)


def test_the_readme_has_the_verdicts_of_the_committed_reports(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = Path("README.md").read_text()
    assert index.with_verdicts(text, Path("experiments/results")) == text
    assert text.count("| reproduced |") > 0
