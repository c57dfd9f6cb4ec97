"""The report says what the files say, and what is missing; text is escaped."""

import csv
import itertools
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from lm import report
from lm.errors import ConfigError
from lm.intervals import mean_interval
from lm.report import index, labels, plots, tuning
from lm.results import read_comparison, read_rows
from lm.stats import Claim, beats, equal, lower
from tests.comparison import (
    ALONE,
    ARMS,
    CELLS,
    TASK,
    YARDSTICKS,
    make,
    make_task,
    tune,
    write_json,
    write_lines,
)

CLAIMS = (
    Claim("The LSTM is below attention", lower("lstm", "attention"), "2.1 against 2.3"),
    Claim("They are equal", equal("lstm", "attention", margin=0.02)),
    Claim("Attention beats the 6-gram", beats("attention", "6-gram")),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished comparison with its report; not to be changed."""
    folder = make(tmp_path_factory.mktemp("whole"))
    report.write(folder, CLAIMS)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(whole, tmp_path / "copy")


def text_of(folder):
    return (folder / "report.md").read_text().replace("\\", "").replace("\u00a0", " ")


def result_of(folder, arm, seed):
    path = folder / f"runs/params/{arm}/lr6e-3-seed{seed}/result.json"
    return path, json.loads(path.read_text())


def edit(folder, arm, seed, change):
    """Write one run's result.json anew after `change(result)`."""
    path, result = result_of(folder, arm, seed)
    change(result)
    write_json(path, result)


def row_of(text, arm):
    """Cells of the first table row of an arm."""
    line = next(x for x in text.splitlines() if x.startswith(f"| {arm} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_how_often_the_text_was_read_is_told(whole):
    text = text_of(whole)
    assert "training: 819,200 tokens, 0.50 times the 1,638,400" in text


def test_rows_drop_a_torn_line_and_keep_the_last_of_each_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"kind": "train", "step": 2, "loss": 1.0},
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "validation", "step": 2, "loss": 3.0},
        {"kind": "train", "step": 2, "loss": 4.0},
    ]
    write_lines(path, rows)
    with open(path, "a") as file:
        file.write('{"kind": "train", "step": 3, "lo')
    assert [row["loss"] for row in read_rows(path)] == [2.0, 4.0, 3.0]
    write_lines(path, rows)
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1"):
        read_rows(path)


def test_table_shows_mean_and_interval_of_the_seeds(whole):
    text = text_of(whole)
    for arm in ARMS:
        for cell, protocol in ((1, "window"), (3, "stream")):
            bits = [
                result_of(whole, arm, seed)[1]["test"][protocol]["bits_per_byte"]
                for seed in (0, 1, 2)
            ]
            mean, low, high, _ = mean_interval(bits)
            assert row_of(text, arm)[cell] == f"{mean:.3f} ({low:.3f} to {high:.3f})"


def test_report_says_which_arms_miss_a_yardstick(whole):
    text = text_of(whole)
    assert "6-gram (2.470 bits per byte): not beaten by attention; beaten by" in text
    assert "unigram (4.100 bits per byte): beaten by attention, lstm," in text
    assert row_of(text, "attention")[4:8] == ["yes", "no", "no", "no"]
    assert row_of(text, "lstm")[4:8] == ["yes", "yes", "no", "no"]


def test_yardstick_inside_the_interval_is_unclear(folder):
    bits = [result_of(folder, "lstm", s)[1]["test"]["window"] for s in (0, 1, 2)]
    middle = float(np.mean([b["bits_per_byte"] for b in bits])) + 1e-4
    yardsticks = {"bits_per_byte": YARDSTICKS | {"6-gram": middle}}
    write_json(folder / "yardsticks.json", yardsticks)
    report.write(folder)
    assert "unclear for lstm" in text_of(folder)


def test_answer_gives_each_verdict_with_its_numbers_and_the_papers(whole):
    verdicts = json.loads((whole / "verdicts.json").read_text())
    words = [claim["verdict"] for claim in verdicts["claims"]]
    assert words == ["reproduced", "not reproduced", "not reproduced"]
    assert verdicts["experiment_hash"] == "0123456789abcdef"
    page, text = (whole / "report.html").read_text(), text_of(whole)
    for claim in verdicts["claims"]:
        assert f"{claim['verdict'].upper()}** {claim['claim']}" in text
        assert f"{claim['estimate']:+.3g}" in text
        assert f"adjusted {claim['p_adjusted']:.2g}" in page
    assert "Paper: 2.1 against 2.3." in text


def test_an_index_has_every_claim_of_every_report(whole, tmp_path):
    for name, claims in {"one": CLAIMS, "two": CLAIMS[:1]}.items():
        report.write(shutil.copytree(whole, tmp_path / name), claims)
    (tmp_path / "no_report").mkdir()
    page = index.write(tmp_path)
    assert page == tmp_path / "index.html"
    text = (tmp_path / "index.md").read_text().replace("\\", "")
    rows = [line for line in text.splitlines() if re.match(r"\| (The|Att)", line)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    wanted = []
    for name in ("one", "two"):
        verdicts = json.loads((tmp_path / name / "verdicts.json").read_text())
        wanted += [(name, claim) for claim in verdicts["claims"]]
    assert len(cells) == len(wanted) == 4
    for (claim, verdict, effect, paper), (_, known) in zip(cells, wanted, strict=True):
        assert (claim, verdict) == (known["claim"], known["verdict"])
        assert effect.startswith(f"{known['estimate']:+.3g} ({known['low']:+.3g} to ")
        assert effect.endswith("n = 3)") and paper == (known["paper"] or "–")
    assert rows[0] == rows[3]
    for name in ("one", "two"):
        assert f"({name}/report.md)" in text
        assert f'<a href="{name}/report.html">' in page.read_text()
    with open(whole / "table.csv", newline="") as file:
        hours = sum(float(row["seconds"]) for row in csv.DictReader(file)) / 3600
    assert text.count(f"tier tiny; 12 runs, {hours:.2g} hours") == 2


def test_an_index_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder with a report"):
        index.write(tmp_path)


def test_csv_has_a_row_for_each_run_with_its_own_figures(whole):
    with open(whole / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        _, result = result_of(whole, row["arm"], row["seed"])
        assert int(row["params"]) == result["count"]["params"]
        window = result["test"]["window"]["bits_per_byte"]
        assert float(row["test_window_bits_per_byte"]) == window
        assert (row["status"], row["edge"], row["lr"]) == ("done", "False", "0.006")


class Page(HTMLParser):
    """Tags left open, addresses, and names of tags of a page."""

    void = {"meta", "img", "br"}

    def __init__(self, page):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_needs_no_other_file_and_is_well_formed(whole):
    source = (whole / "report.html").read_text()
    page = Page(source)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe"}
    assert len(page.addresses) == 6
    assert all(a.startswith("data:image/svg+xml;base64,") for a in page.addresses)
    assert "url(" not in source and "@import" not in source


def test_pictures_of_the_markdown_exist(whole):
    pictures = re.findall(r"\]\((figures/.*?)\)", text_of(whole))
    assert len(pictures) == 6
    for picture in pictures:
        assert (whole / picture).read_bytes().startswith(b"\x89PNG")


def test_samples_are_escaped_and_the_last_is_shown(whole):
    page, text = (whole / "report.html").read_text(), (whole / "report.md").read_text()
    assert "&lt;b&gt;was&lt;/b&gt; the | king &amp; the ```house```" in page
    assert "<b>" not in page and "\x00" not in page and "\x1b" not in page
    assert "early" not in page
    assert "\n````text\nattention: In the" in text  # a fence longer than the text's own


def test_hostile_names_cannot_break_out(folder):
    plan = json.loads((folder / "plan.json").read_text())
    plan["question"] = "<script>alert(1)</script> a|b"
    write_json(folder / "plan.json", plan)
    report.write(folder)
    assert "<script" not in (folder / "report.html").read_text()
    assert "<script" not in (folder / "report.md").read_text()


def test_missing_and_diverged_runs_are_stated_and_take_the_mean(folder):
    path, _ = result_of(folder, "lstm", 2)
    path.unlink()
    row = {"run": "params/lstm/lr6e-3-seed2", "status": "failed", "reason": "no memory"}
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(json.dumps(row) + '\n{"torn')
    edit(folder, "attention", 0, lambda r: r.update(status="diverged", diverged_at=77))
    report.write(folder, CLAIMS)
    text = text_of(folder)
    assert "10 of 12 runs are finished" in text
    assert "params/lstm/lr6e-3-seed2: failed: no memory." in text
    assert "params/attention/lr6e-3-seed0: diverged at step 77." in text
    assert row_of(text, "lstm")[1].startswith("– (points 2.")
    verdicts = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert {v["verdict"] for v in verdicts} == {"inconclusive"}
    assert "no figure yet for attention, lstm" in text
    with open(folder / "table.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["params/lstm/lr6e-3-seed2"]["status"] == "missing"
    assert rows["params/attention/lr6e-3-seed0"]["reason"] == "diverged at step 77"


def test_report_of_a_comparison_that_only_has_a_plan(folder):
    shutil.rmtree(folder / "runs")
    (folder / "ledger.jsonl").unlink()
    (folder / "yardsticks.json").unlink()
    report.write(folder, CLAIMS)
    text = text_of(folder)
    assert "0 of 12 runs are finished" in text
    assert "The yardsticks are not measured yet" in text
    verdicts = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert [v["verdict"] for v in verdicts] == ["inconclusive"] * 3


def test_runs_without_yardsticks_leave_their_claims_open(folder):
    (folder / "yardsticks.json").unlink()
    report.write(folder, CLAIMS)
    claim = json.loads((folder / "verdicts.json").read_text())["claims"][2]
    assert claim["verdict"] == "inconclusive"
    assert "yardsticks are not measured" in claim["sentence"]


def test_edge_is_flagged_in_table_warning_and_verdict(folder):
    plan = json.loads((folder / "plan.json").read_text())
    plan["best"]["params"]["lstm"]["edge"] = True
    write_json(folder / "plan.json", plan)
    report.write(folder, CLAIMS)
    text = text_of(folder)
    assert row_of(text, "lstm")[-1] == "0.006 (edge)"
    assert "Equal params: the best learning rate of lstm lies on the edge" in text
    verdicts = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert [v["verdict"] for v in verdicts][:2] == ["withheld", "withheld"]


def test_two_seeds_are_shown_as_points(tmp_path):
    folder = make(tmp_path, seeds=(0, 1))
    report.write(folder, CLAIMS)
    text = text_of(folder)
    assert re.fullmatch(r"2\.\d+ \(points 2\.\d+, 2\.\d+\)", row_of(text, "lstm")[1])
    assert "2 seeds: points are shown, no interval" in text


def test_each_match_has_a_section_and_claims_are_one_family(tmp_path):
    folder = make(tmp_path, matches=("params", "width"))
    report.write(folder, CLAIMS[:1])
    text = text_of(folder)
    assert "## Results at equal params" in text and "## Results at equal width" in text
    claims = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert [claim["match"] for claim in claims] == ["params", "width"]
    smaller = min(claims, key=lambda claim: claim["p"])
    assert smaller["p_adjusted"] == pytest.approx(2 * smaller["p"])


def test_key_that_differs_outside_the_axes_is_a_warning(folder):
    assert "Arms differ outside" not in text_of(folder)
    edit(folder, "lstm", 0, lambda r: r["config"]["optim"].update(weight_decay=0.0))
    report.write(folder)
    assert "Arms differ outside the axes: optim.weight_decay." in text_of(folder)
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "plan.json", plan | {"kind": "recipes"})
    report.write(folder)
    assert "Arms differ outside" not in text_of(folder)
    assert "| optim.weight_decay | params | 0.1 | 0.0 |" in text_of(folder)


def test_keys_of_a_mixer_that_another_arm_lacks_are_its_pattern(folder):
    own = {"attention": {"heads": 4}, "window": {"window": 64}}
    mine = dict(own, window={"window": 32})
    for arm, mixers in (("attention", {}), ("lstm", own), ("rglru+window", mine)):
        edit(folder, arm, 0, lambda r, m=mixers: r["config"]["model"].update(mixers=m))
    report.write(folder)
    assert "axes: model.mixers.window.window." in text_of(folder)


def test_runs_on_unlike_devices_or_data_are_a_warning(folder):
    edit(folder, "lstm", 0, lambda r: r["machine"].update(device="H100"))
    edit(folder, "lstm", 1, lambda r: r["data"].update(fingerprint="xyz"))
    report.write(folder)
    assert "different devices: AMD EPYC 7B13, H100." in text_of(folder)
    assert "different data: abc, xyz." in text_of(folder)


def test_tuning_runs_enter_no_figure_but_their_own(folder):
    before = text_of(folder)
    tune(folder, ARMS, [0.006], lambda arm, rate: 9.0)
    report.write(folder, CLAIMS)
    text = text_of(folder)
    start = text.index("### How the learning rates were chosen")
    stop = text.index("## What was held equal")
    assert text[:start] + text[stop:] == before
    assert re.findall(r"figures/params-(\w+)", text[start:stop]) == ["rates", "best_of"]
    assert "runs/params/lstm/lr0.006-seed1000" in (folder / "table.csv").read_text()


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 5.0, 1.5], [2.0, math.inf, 1.0]])
def test_expected_best_is_the_mean_over_all_subsets(values):
    for n, best in enumerate(tuning.expected_best(values), 1):
        least = [min(subset) for subset in itertools.combinations(values, n)]
        assert best == pytest.approx(np.mean(least))


def test_a_rung_is_the_mean_of_its_seeds_and_infinite_if_one_was_lost(folder):
    tune(folder, ["lstm"], [0.1, 0.2], lambda arm, rate: 1.0 if rate < 0.2 else None)
    tune(folder, ["lstm"], [0.3, 0.4], lambda arm, rate: 10 * rate)
    plan = json.loads((folder / "plan.json").read_text())
    for run in plan["runs"]:  # 0.3 becomes a second seed of 0.4
        if run["lr"] == 0.3:
            run |= {"lr": 0.4, "seed": 1001}
    plan["runs"] = [run for run in plan["runs"] if run["tuning"]]
    path = "runs/params/lstm/lr0.5-seed1000"
    waiting = {"id": "w", "lr": 0.5, "workdir": path}
    plan["runs"].append(plan["runs"][0] | waiting)
    write_json(folder / "plan.json", plan)
    held = tuning.rungs(read_comparison(folder), "params", "lstm")
    assert held == {0.1: 1.0, 0.2: math.inf, 0.4: pytest.approx(3.5)}


def test_unequal_grids_and_seeds_are_refused_by_name(folder):
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "plan.json", plan | {"runs": plan["runs"][:-1]})
    with pytest.raises(ValueError, match=r"unequal seeds.*rglru\+window seeds 0, 1$"):
        read_comparison(folder)
    write_json(folder / "plan.json", plan)
    tune(folder, ARMS, [0.001, 0.002], lambda arm, rate: rate)
    read_comparison(folder)
    tune(folder, ["lstm"], [0.004], lambda arm, rate: rate)
    with pytest.raises(ValueError, match="unequal grid.*attention 2.*lstm 3 rates"):
        read_comparison(folder)


def test_grids_of_a_comparison_that_still_tunes_are_not_judged(folder):
    plan = json.loads((folder / "plan.json").read_text())
    tune(folder, ["lstm"], [0.001], lambda arm, rate: rate)
    runs = json.loads((folder / "plan.json").read_text())["runs"]
    write_json(folder / "plan.json", plan | {"runs": [r for r in runs if r["tuning"]]})
    read_comparison(folder)


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """A finished comparison on a task, over cells, tuned in one of them."""
    folder = make_task(tmp_path_factory.mktemp("parity"), cells=CELLS)
    arms = [f"{arm}@d32" for arm in ARMS]
    tune(folder, arms, [1e-3, 2e-3, 4e-3], lambda arm, rate: None if rate > 3e-3 else 1)
    report.write(folder)
    return folder


def pictures_of(folder):
    names = re.findall(r"\]\(figures/params-(.*?)\.png\)", text_of(folder))
    for name in names:
        path = folder / f"figures/params-{name}.png"
        assert path.read_bytes().startswith(b"\x89PNG")
    return names


def test_task_table_has_interval_and_range_of_seeds_for_each_test(parity):
    text = text_of(parity)
    plan = json.loads((parity / "plan.json").read_text())
    for arm in plan["arms"]:
        paths = (parity / "runs/params" / arm).glob("lr6e-3-*/result.json")
        found = [json.loads(path.read_text())["test"] for path in paths]
        columns = [(test, "accuracy") for test in TASK["tests"]] + [("same", "exact")]
        for cell, (test, key) in enumerate(columns, 1):
            shares = [result[test][key] for result in found]
            mean, low, high, _ = mean_interval(shares)
            assert row_of(text, arm)[cell] == (
                f"{mean:.3f} ({max(low, 0):.3f} to {min(high, 1):.3f}) "
                f"seeds {min(shares):.3f} to {max(shares):.3f}"
            )
    assert row_of(text, "chance") == ["chance", *["0.500"] * 3, *["–"] * 3]


def test_exact_has_no_column_where_it_is_accuracy(tmp_path):
    folder = make_task(tmp_path, seeds=(0, 1), task=ALONE)
    for path in folder.glob("runs/**/result.json"):
        result = json.loads(path.read_text())
        result["test"]["same"]["exact"] = result["test"]["same"]["accuracy"]
        write_json(path, result)
    report.write(folder)
    assert "exact (same)" not in text_of(folder)
    assert re.fullmatch(
        r"0\.\d+ \(points 0\.\d+, 0\.\d+\)", row_of(text_of(folder), "lstm")[1]
    )


def test_task_answer_ranks_arms_of_each_cell_by_accuracy(parity):
    text = text_of(parity)
    for place in ("d16", "d32"):
        for test, size in (("same", 20), ("x4", 80)):
            start = f"At equal params, {place}, best first, accuracy at length {size}"
            line = next(x for x in text.splitlines() if start in x)
            assert f"({test}); chance 0.500: lstm 0.9" in line
            listed = [float(word) for word in re.findall(r"0\.\d+(?=[,.]\s|\.$)", line)]
            assert listed == sorted(listed, reverse=True) and len(listed) == len(ARMS)
    assert "bits per byte" not in text and "yardstick" not in text
    assert "training: 819,200 tokens, each row new" in text


def test_task_figures_are_drawn_and_tuning_only_of_the_reference(parity):
    drawn = ["final", "size", "heat", "cell", "state_accuracy", "tokens"]
    tuned = ["rates-d32", "best_of-d32"]
    assert pictures_of(parity) == [*drawn, "position", "state", "costs", *tuned]


def test_one_test_without_cells_has_neither_size_nor_cell(tmp_path):
    report.write(make_task(tmp_path, task=ALONE))
    drawn = ["final", "state_accuracy", "tokens", "position", "state", "costs"]
    assert pictures_of(tmp_path) == drawn


def test_cells_of_several_keys_have_no_axis(tmp_path):
    cells = {"a": CELLS["d16"], "b": CELLS["d32"] | {"model.depth": 4}}
    report.write(make_task(tmp_path, cells=cells))
    assert "cell" not in pictures_of(tmp_path)
    assert "b (model.width = 32, model.depth = 4)" in text_of(tmp_path)


def test_text_over_cells_is_drawn_at_the_reference(folder):
    plan = json.loads((folder / "plan.json").read_text())
    for number, facts in enumerate(plan["arms"].values()):
        facts |= {"base": f"base{number % 2}", "cell": ("d16", "d32")[number // 2]}
    write_json(folder / "plan.json", plan | {"cells": CELLS, "reference": "d16"})
    report.write(folder)
    assert "At equal params, d16, best first, bits per byte: base1 2" in text_of(folder)
    assert pictures_of(folder)[:2] == ["final", "tokens"]
    assert "while training: seeds thin, their mean thick. Cell d16." in text_of(folder)


def test_missing_task_run_is_stated_with_its_reason(parity, tmp_path):
    folder = shutil.copytree(parity, tmp_path / "copy")
    for path in folder.glob("runs/params/lstm@d16/lr6e-3-seed*/result.json"):
        path.unlink()
    path = folder / "runs/params/attention@d16/lr6e-3-seed1/result.json"
    result = json.loads(path.read_text())
    write_json(path, result | {"status": "diverged", "diverged_at": 7})
    report.write(folder)
    text = text_of(folder)
    assert row_of(text, "lstm@d16")[1] == "– (not finished)"
    assert row_of(text, "attention@d16")[1].endswith("; runs missing)")
    assert "params/attention@d16/lr6e-3-seed1: diverged at step 7." in text
    assert "heat" in pictures_of(folder)
    shutil.rmtree(folder / "runs")
    report.write(folder)
    assert pictures_of(folder) == []


def test_task_csv_has_figures_of_each_test(parity):
    with open(parity / "table.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tuning"] == "False"]
    assert len(rows) == 5 * len(ARMS) * len(CELLS)
    for row in rows:
        result = json.loads((parity / row["workdir"] / "result.json").read_text())
        assert (
            float(row["validation_same_accuracy"])
            == (result["validation"]["same"]["accuracy"])
        )
        for test in TASK["tests"]:
            for key in ("accuracy", "exact"):
                assert float(row[f"test_{test}_{key}"]) == result["test"][test][key]


def test_two_runs_of_one_arm_and_seed_are_an_error(folder):
    plan = json.loads((folder / "plan.json").read_text())
    plan["runs"].append(plan["runs"][0] | {"id": "again"})
    write_json(folder / "plan.json", plan)
    with pytest.raises(ValueError, match="attention at seed 0.*again"):
        read_comparison(folder)


def test_unavailable_stream_is_a_reason_not_a_failure(folder):
    reason = {"unavailable": "no cache"}
    for seed in (0, 1, 2):
        edit(folder, "attention", seed, lambda r: r["test"].update(stream=reason))
    report.write(folder)
    assert row_of(text_of(folder), "attention")[3] == "– (unavailable: no cache)"


def test_speed_is_that_of_the_arm_timed_alone(folder):
    assert row_of(text_of(folder).split("decode FLOPs")[1], "lstm")[6] == "31,400"
    write_json(folder / "speed.json", {"params": {"lstm": {"tokens_per_second": 5e4}}})
    report.write(folder)
    table = text_of(folder).split("decode FLOPs")[1]
    assert row_of(table, "lstm")[6] == "50,000"
    assert row_of(table, "attention")[6] == "31,400"


def test_arms_look_the_same_whichever_are_drawn():
    style = plots.styles(ARMS)
    assert len(set(style.values())) == len(ARMS)
    assert len({s.color for s in plots.styles("abcdefg").values()}) == 7
    assert len(set(plots.styles(range(50)).values())) == 50


def test_labels_are_moved_apart_and_keep_their_order():
    places = labels.spread([0.50, 0.10, 0.51, 0.52], 0.1)
    assert np.mean(places) == pytest.approx(0.4075)
    order = np.sort(places)
    assert np.diff(order).min() > 0.099
    assert np.argsort(places).tolist() == [1, 0, 2, 3]
    assert labels.spread([0.1, 0.5], 0.1) == [0.1, 0.5]
    low = labels.spread([0.03, 0.02, 0.04, 0.9], 0.1, lowest=0.02)
    assert low == pytest.approx([0.12, 0.02, 0.22, 0.99], abs=1e-6)
    assert labels.spread([], 0.1, lowest=0.0) == []


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (999, "999"), (130_112, "130 k"), (1.33e12, "1.33 T"), (0.5, "0.5")],
)
def test_si_numbers(value, text):
    assert labels.si(value) == text


def test_pairs_have_their_figures_beside_what_does_without_a_network(tmp_path):
    of_pairs = {"kind": "text_to_text", "size": "length", "chance": {}}
    of_pairs |= {"tests": {"same": 96, "other": 96}}
    of_pairs |= {"figures": ["bits_per_byte", "bleu"]}
    folder = make_task(tmp_path, seeds=range(3), task=of_pairs)
    for path in folder.glob("runs/**/result.json"):
        result = json.loads(path.read_text())
        bits = 1 - result["test"]["same"]["accuracy"]
        result["test"]["other"]["bits_per_byte"] = bits + 1
        shown = ["In the beginning", "At the first", "At the start"]
        written = {"bits_per_byte": bits, "bleu": 20 - 9 * bits, "answers": [shown]}
        result["test"]["same"] |= written | {"interval": [12.0, 16.0]}
        write_json(path, result)
    known = {"copy": {"bleu": 25.5}, "majority": {"exact": 0.25}}
    write_json(folder / "yardsticks.json", {"bits_per_byte": {}, "figures": known})
    report.write(folder)
    text = text_of(folder)
    header = next(x for x in text.splitlines() if x.startswith("| arm | accuracy"))
    columns = [x.strip() for x in header.strip("|").split("|")]
    assert columns[3:-2] == [
        "exact (same)",
        "bits per byte (same)",
        "bits per byte (other)",
        "BLEU (same)",
    ]
    assert row_of(text, "lstm")[6].endswith("over pairs 12.000 to 16.000")
    assert row_of(text, "copy")[1:] == ["–"] * 5 + ["25.500", "–", "–"]
    assert row_of(text, "majority")[1:] == ["–"] * 2 + ["0.250"] + ["–"] * 5
    assert "| chance |" not in text and "chance" not in pictures_of(folder)
    line = next(x for x in text.splitlines() if "best first, BLEU; copy 25.5" in x)
    assert "BLEU; copy 25.5: lstm 1" in line
    assert pictures_of(folder)[:3] == ["final", "bits_per_byte", "bleu"]
    assert "In the beginning" in text and "(reference: At the start)" in text
    assert "test_same_bleu" in (folder / "table.csv").read_text().splitlines()[0]
