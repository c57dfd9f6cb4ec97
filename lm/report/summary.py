"""A comparison in words: the table of arms, the yardsticks, the keys that differ."""

from lm.intervals import Interval, bootstrap_blocks, mean_interval
from lm.report.document import Grid
from lm.report.labels import si
from lm.results import Comparison

NONE = "–"
LEGEND = (
    "Bits per byte of the test text, lower is better: mean over seeds with its 95 % t "
    "interval. Window: state reset at each window, the headline. Stream: state, or a "
    "cache, carried. Over text: 95 % bootstrap interval over blocks of text, seeds "
    "averaged. An arm beats a yardstick (yes) if its whole interval is below, does "
    "not (no) if none of it is, else it is unclear. FLOPs are model FLOPs."
)


def legend(c: Comparison) -> str:
    """What the columns of `results` mean."""
    return LEGEND


def summary(c: Comparison, match: str, arm: str, metric: str):
    """(Interval or None, values by seed, reasons of missing ones) of a metric."""
    values, missing = c.tables[match].column(arm, metric)
    mean = None if missing else mean_interval(list(values.values()))
    return mean, list(values.values()), missing


def against(c: Comparison, match: str, arm: str, yardstick: float) -> str:
    """Whether an arm is below a yardstick: yes, no, unclear, or `NONE` without runs.

    Below n = 3 the extreme seeds stand for the interval.
    """
    mean, values, _ = summary(c, match, arm, c.headline)
    if mean is None:
        return NONE
    low, high = mean.low, mean.high
    if low is None:
        low, high = min(values), max(values)
    return "yes" if high < yardstick else "no" if low >= yardstick else "unclear"


def cell(mean: Interval | None, values, missing) -> str:
    points = ", ".join(f"{value:.3f}" for value in values)
    if mean is None and not values:
        return f"{NONE}\n({missing[0].split(': ', 1)[-1]})"
    if mean is None:
        return f"{NONE}\n(points {points}; runs missing)"
    if mean.low is None:
        return f"{mean.mean:.3f}\n(points {points})"
    return f"{mean.mean:.3f}\n({_span(mean)})"


def _span(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}".replace(" ", " ")


def over_text(results: list[dict]) -> str:
    """Bootstrap interval over blocks of text, the nats of each averaged over seeds."""
    blocks = [result["test"]["window"]["blocks"] for result in results]
    if not blocks:
        return NONE
    if len({tuple(size for _, size in seed) for seed in blocks}) > 1:
        return "blocks differ"
    mean = [
        [sum(nats for nats, _ in same) / len(same), same[0][1]]
        for same in zip(*blocks, strict=True)
    ]
    interval = bootstrap_blocks(mean, seed=0)
    if interval.low is None:
        return f"{NONE} ({interval.n} blocks)"
    return _span(interval)


def results(c: Comparison, match: str) -> Grid:
    """A row for each arm: bits per byte with intervals, yardsticks, seeds, rate."""
    yardsticks = c.yardsticks["bits_per_byte"]
    header = ["arm", "window", "over text", "stream"]
    header += [f"beats\n{name}\n({value:.2f})" for name, value in yardsticks.items()]
    header += ["seeds", "learning\nrate"]
    rows = []
    for arm in c.plan["arms"]:
        window, stream = (
            summary(c, match, arm, f"test.{p}.bits_per_byte")
            for p in ("window", "stream")
        )
        row = [arm, cell(*window), over_text(c.done(match, arm)), cell(*stream)]
        row += [against(c, match, arm, value) for value in yardsticks.values()]
        rows.append([*row, *seeds_and_rate(c, match, arm)])
    return Grid(header, rows)


def seeds_and_rate(c: Comparison, match: str, arm: str) -> list[str]:
    """The last two cells of an arm's row."""
    best = c.best(match, arm)
    seeds = ", ".join(str(run["seed"]) for run in c.runs(match, arm))
    rate = f"{best['lr']:g}{' (edge)' if best['edge'] else ''}" if best else NONE
    return [seeds, rate]


def ranking(c: Comparison, match: str, metric: str, what: str) -> list[str]:
    """A sentence for each cell: its arms by their means, best first."""
    lines = []
    for cell, arms in c.cells.items():
        means = {arm: summary(c, match, arm, metric)[0] for arm in arms}
        order = [(mean.mean, c.base(arm)) for arm, mean in means.items() if mean]
        order.sort(key=lambda pair: -pair[0] if c.task else pair[0])
        listed = ", ".join(f"{arm} {mean:.3f}" for mean, arm in order)
        place = f"equal {match}, {cell}" if cell else f"equal {match}"
        if order:
            lines.append(f"At {place}, best first, {what}: {listed}.")
    return lines


def costs(c: Comparison, match: str) -> Grid:
    """A row for each arm: parameters, model FLOPs, bytes of state, speed, device."""
    header = ["arm", "parameters", "without\nembeddings", "training\nFLOPs"]
    header += ["state\nbytes", "decode FLOPs\na token", "tokens/s", "device"]
    return Grid(header, [[arm, *_costs(c, match, arm)] for arm in c.plan["arms"]])


def _costs(c: Comparison, match: str, arm: str) -> list[str]:
    done = c.done(match, arm)
    if not done:
        return [NONE] * 7
    count = done[0]["count"]
    return [
        f"{count['params']:,}",
        f"{count['params_non_embedding']:,}",
        si(count["train_flops"]),
        f"{count['state_bytes']:,}",
        si(count["decode_flops_per_token"]),
        f"{c.speed(match, arm):,.0f}",
        ", ".join(sorted({r["machine"]["device"] for r in done})),
    ]


def beaten(c: Comparison, match: str) -> list[str]:
    """A sentence for each yardstick: which arms do not beat it, which do."""
    lines = []
    for name, value in c.yardsticks["bits_per_byte"].items():
        said = {arm: against(c, match, arm, value) for arm in c.plan["arms"]}
        groups = [
            (verb, ", ".join(arm for arm, word in said.items() if word == key))
            for key, verb in (
                ("no", "not beaten by"),
                ("unclear", "unclear for"),
                ("yes", "beaten by"),
                (NONE, "no figure yet for"),
            )
        ]
        listed = "; ".join(f"{verb} {arms}" for verb, arms in groups if arms)
        lines.append(f"{name} ({value:.3f} bits per byte): {listed}.")
    return lines


def differing(c: Comparison) -> list[list[str]]:
    """A row for each configuration key that differs between arms; "NO": undeclared.

    Keys of a mixer that an arm does not have are its pattern's, and left out.
    """
    rows = []
    for m in c.plan["matches"]:
        done = {arm: c.done(m["name"], arm) for arm in c.plan["arms"]}
        known = {arm: flat(runs[0]["config"]) for arm, runs in done.items() if runs}
        cells = [key for keys in c.plan.get("cells", {}).values() for key in keys]
        allowed = [*c.plan["axes"], m["by"], "name", *cells]
        for key in sorted({key for config in known.values() for key in config}):
            cells = {arm: config.get(key) for arm, config in known.items()}
            if key.startswith("model.mixers."):
                cells = {arm: cells[arm] for arm in cells if key in known[arm]}
            if len({str(cell) for cell in cells.values()}) < 2 or key[:4] == "run.":
                continue
            declared = any(f"{key}.".startswith(f"{axis}.") for axis in allowed)
            shown = [str(cells[arm]) if arm in cells else NONE for arm in done]
            rows.append([key, m["name"], *shown, "yes" if declared else "NO"])
    return rows


def flat(config: dict, prefix: str = "") -> dict:
    """{dotted path: leaf} of nested dictionaries."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
