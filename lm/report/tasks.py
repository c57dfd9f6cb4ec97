"""What a report shows of synthetic tasks: accuracy by test, size, cell and state."""

import math

from lm.intervals import Interval
from lm.report import charts, pairs, plots
from lm.report.document import Grid
from lm.report.plots import Curve
from lm.report.summary import NONE, cell, ranking, seeds_and_rate, summary
from lm.results import SHARES, Comparison

LEGEND = (
    "Accuracy: share of the scored tokens that are predicted right, higher is better: "
    "mean over seeds, its 95 % t interval cut at 0 and 1, and the lowest to the "
    "highest seed. The test named same: fresh rows of the training's distribution. "
    "Where every token is scored, a longer test counts only those beyond training's "
    "length. Exact: rows all of whose scored tokens are right, at same. Chance: a "
    "guess among the answers left open. "
    "FLOPs are model FLOPs."
)
EACH = ("accuracy", "exact", "nats_per_token", "tokens")  # table.csv, of every test


def legend(c: Comparison) -> str:
    """What the columns of `results` mean."""
    return f"{LEGEND} {pairs.LEGEND}" if pairs.figures(c) else LEGEND


def columns(c: Comparison) -> dict[str, str]:
    """Columns of table.csv -> their paths into result.json."""
    places = {"validation_same": "validation.same"}
    places |= {f"test_{name}": f"test.{name}" for name in c.task["tests"]}
    found = {f"{a}_{key}": f"{b}.{key}" for a, b in places.items() for key in EACH}
    return found | {f"test_same_{key}": f"test.same.{key}" for key in pairs.figures(c)}


def title(c: Comparison, test: str) -> str:
    """A test by its size and name: length 40 (x2)."""
    return f"{c.task['size']} {c.task['tests'][test]:,g} ({test})"


def rankings(c: Comparison, match: str) -> list[str]:
    """Arms best first, at the training size and at the largest test's."""
    sizes = c.task["tests"]
    lines = []
    for test in dict.fromkeys(("same", max(sizes, key=sizes.get))):
        chance = c.task["chance"].get(test)
        guess = "" if chance is None else f"; chance {chance:.3f}"
        what = f"accuracy at {title(c, test)}{guess}"
        lines += ranking(c, match, f"test.{test}.accuracy", what)
    for figure in pairs.figures(c)[1:]:
        known = {n: of[figure] for n, of in pairs.baselines(c).items() if figure in of}
        told = "".join(f"; {name} {value:.1f}" for name, value in known.items())
        lines += ranking(
            c, match, f"test.same.{figure}", f"{pairs.NAMES[figure]}{told}"
        )
    return lines


def results(c: Comparison, match: str) -> Grid:
    """A row for each arm and one for chance; a column for each test."""
    tests = list(c.task["tests"])
    done = [result["test"] for arm in c.plan["arms"] for result in c.done(match, arm)]
    apart = any(t["same"]["exact"] != t["same"]["accuracy"] for t in done)
    header = ["arm"]
    header += ["accuracy\n" + title(c, test).replace(" (", "\n(") for test in tests]
    header += ["exact\n(same)"] * apart + ["seeds", "learning\nrate"]
    metrics = [f"test.{test}.accuracy" for test in tests]
    metrics += ["test.same.exact"] * apart
    for figure in pairs.figures(c):
        has = [t for t in tests if any(figure in r[t] for r in done)]
        header[-2:-2] = [f"{pairs.NAMES[figure]}\n({test})" for test in has]
        metrics += [f"test.{test}.{figure}" for test in has]
    rows = []
    for arm in c.plan["arms"]:
        cells = [
            _cell(*share(c, match, arm, metric))
            + pairs.over_pairs(c, match, arm, metric)
            for metric in metrics
        ]
        rows.append([arm, *cells, *seeds_and_rate(c, match, arm)])
    known = {
        name: {f"test.same.{k}": v for k, v in of.items()}
        for name, of in pairs.baselines(c).items()
    }
    if chance := c.task["chance"]:
        known["chance"] = {f"test.{test}.accuracy": v for test, v in chance.items()}
    for name, of in known.items():
        guess = [f"{of[m]:.3f}" if m in of else NONE for m in metrics]
        rows.append([name, *guess, NONE, NONE])
    return Grid(header, rows)


def share(c: Comparison, match: str, arm: str, metric: str):
    """`summary` of a figure; the interval of a share is cut at 0 and 1."""
    mean, values, missing = summary(c, match, arm, metric)
    cut = metric.rpartition(".")[2] in SHARES
    if cut and mean is not None and mean.low is not None:
        mean = mean._replace(low=max(mean.low, 0.0), high=min(mean.high, 1.0))
    return mean, values, missing


def _cell(mean: Interval | None, values, missing) -> str:
    text = cell(mean, values, missing)
    if mean is None or mean.low is None:
        return text
    seeds = f"seeds {min(values):.3f} to {max(values):.3f}".replace(" ", "\u00a0")
    return f"{text}\n{seeds}"


def drawn(c: Comparison, match: str, style) -> dict[str, tuple]:
    """{name: (figure or None, caption)} of one matching."""
    arms, tests, chance = list(c.plan["arms"]), list(c.task["tests"]), c.task["chance"]
    stats = {
        test: {arm: share(c, match, arm, f"test.{test}.accuracy") for arm in arms}
        for test in tests
    }
    means = {t: {arm: s[0] for arm, s in by.items()} for t, by in stats.items()}
    seeds = {t: {arm: s[1] for arm, s in by.items()} for t, by in stats.items()}
    of_cell = f" Cell {c.shown}." if c.shown else ""
    same, size = title(c, "same"), c.task["size"]
    if len(tests) > 1:
        titles = {test: title(c, test) for test in tests}
        figure = charts.dots(titles, means, seeds, chance, style, "accuracy")
    else:
        line = {"chance": chance["same"]} if "same" in chance else {}
        label = f"accuracy at {same}"
        figure = plots.final(means["same"], seeds["same"], line, style, label)
    found = {"final": (figure, DOTS), **pairs.drawn(c, match, style)}
    if len(set(c.task["tests"].values())) > 1:
        figure = _by_size(c, match, style)
        found["size"] = (figure, SIZES + of_cell)
        rates = [[m.mean if m else math.nan for m in by] for by in _rows(means, arms)]
        labels = [title(c, test).split(" ", 1)[1] for test in tests]
        figure = charts.heat(arms, labels, rates, f"{size} (test)", "arm", "accuracy")
        found["heat"] = (
            figure,
            "Mean accuracy over seeds; a dash: a run is missing.",
        )
    if key := cell_key(c):
        figure = _by_cell(c, match, style, key)
        found["cell"] = (figure, f"Accuracy at {same} against {key}: {SEEDS}")
    points = {c.base(arm): [] for arm in arms}
    for arm, (mean, values, _) in stats["same"].items():
        done = c.done(match, arm)
        if mean is not None:
            if mean.low is None:
                mean = mean._replace(low=min(values), high=max(values))
            points[c.base(arm)].append((done[0]["count"]["state_bytes"], mean))
    figure = charts.against_state(
        points, style, f"accuracy at {same}", chance.get("same")
    )
    found["state_accuracy"] = (figure, STATE)
    figure = charts.lines(
        _learning(c, match),
        style,
        "tokens trained on",
        "validation accuracy",
        chance.get("same"),
    )
    found["tokens"] = (
        figure,
        f"Validation accuracy while training: {SEEDS}{of_cell}",
    )
    return found


DOTS = (
    "Test accuracy: mean and 95 % t interval over seeds (filled), every seed (open), "
    "chance (dashed). Higher is better."
)
SEEDS = "seeds thin, their mean thick, chance dashed."
SIZES = f"Accuracy against the size of the test: {SEEDS} Dotted: the size of training."
STATE = (
    "Accuracy against the bytes that one sequence keeps, logarithmic: mean and 95 % t "
    "interval, below 3 seeds the lowest to the highest."
)


def cell_key(c: Comparison) -> str | None:
    """The numeric key in which the cells differ, if it is one and the same."""
    keys = {key for cell in c.plan.get("cells", {}).values() for key in cell}
    values = [list(cell.values()) for cell in c.plan.get("cells", {}).values()]
    if len(keys) != 1 or any(len(value) != 1 for value in values):
        return None
    numbers = all(type(value) in (int, float) for (value,) in values)
    return next(iter(keys)) if numbers else None


def _rows(means, arms):
    return [[means[test][arm] for test in means] for arm in arms]


def _by_size(c: Comparison, match: str, style):
    """Curves of the shown cell's arms over the tests' sizes, one test of each size."""
    tests = {size: test for test, size in reversed(c.task["tests"].items())}
    sizes = sorted(tests)
    curves = {}
    for arm in c.cells[c.shown]:
        tested = [result["test"] for result in c.done(match, arm)]
        curves[c.base(arm)] = [
            Curve(sizes, [test[tests[size]]["accuracy"] for size in sizes])
            for test in tested
        ]
    known = [size for size in sizes if tests[size] in c.task["chance"]]
    chance = Curve(known, [c.task["chance"][tests[size]] for size in known])
    return charts.lines(
        curves,
        style,
        f"{c.task['size']} of the test",
        "test accuracy",
        chance if known else None,
        places=True,
        training=c.task["tests"]["same"],
    )


def _by_cell(c: Comparison, match: str, style, key: str):
    """Curves of each seed over the cells that it finished."""
    curves = {}
    for place, arms in c.cells.items():
        for arm in arms:
            values, _ = c.tables[match].column(arm, "test.same.accuracy")
            seeds = curves.setdefault(c.base(arm), {})
            for seed, value in values.items():
                seeds.setdefault(seed, {})[c.plan["cells"][place][key]] = value
    by_arm = {
        arm: [
            Curve(*map(list, zip(*sorted(s.items()), strict=True))) for s in of.values()
        ]
        for arm, of in curves.items()
    }
    label, chance = f"accuracy at {title(c, 'same')}", c.task["chance"].get("same")
    return charts.lines(by_arm, style, key, label, chance, places=True)


def _learning(c: Comparison, match: str) -> dict[str, list[Curve]]:
    curves = {}
    for arm in c.cells[c.shown]:
        seeds = curves.setdefault(c.base(arm), [])
        for run in c.runs(match, arm):
            rows = [r for r in c.rows.get(run["id"], []) if r["kind"] == "validation"]
            if rows:
                y = [row["accuracy"] for row in rows]
                seeds.append(Curve([row["tokens"] for row in rows], y))
    return curves
