"""An experiment file: a question, its arms, what is held equal, and its claims.

A controlled experiment varies what AXES names and nothing else; an arm that differs
elsewhere is refused before any compute is spent. KIND = "recipes" allows differences
and the report lists them.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lm import config as configs
from lm.config import ABSENT, ConfigError
from lm.results import Table
from lm.stats import Claim

QUANTITIES = ("params", "params_non_embedding", "flops", "state_bytes", "width")
KINDS = ("controlled", "recipes")
HASHED = ("QUESTION", "KIND", "ARMS", "AXES", "MATCH", "runs", "CLAIMS")
TUNING_SEEDS = 1000  # from here up: they choose a rate and enter no verdict


@dataclasses.dataclass(frozen=True)
class Match:
    """What every arm has equally much of, within 1 %.

    quantity: one of QUANTITIES; "width" fits nothing: arms share every width.
    target: of the quantity. by: the integer key that is fitted to reach it.
    """

    quantity: str
    target: float | None = None
    by: str | None = None

    def __post_init__(self):
        if self.quantity not in QUANTITIES:
            raise ConfigError(
                f"Match quantity {self.quantity!r}: take one of {', '.join(QUANTITIES)}"
            )
        given = {self.target is not None, self.by is not None}
        if given != {self.quantity != "width"}:
            raise ConfigError(
                f"Match {self.quantity!r} needs target and by; 'width' needs neither"
            )


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Learning rates start * ratio**k: the same for all arms, chosen on validation.

    When an arm's best is an end rung, every arm gets two more at the end nearer its own
    best; after `most` rungs the edge is flagged and the verdict withheld.
    """

    start: float
    ratio: float = 2.0
    rungs: int = 6
    most: int = 10
    seeds: tuple[int, ...] = (TUNING_SEEDS,)

    def __post_init__(self):
        if self.rungs < 6:
            raise ConfigError(f"Ladder has {self.rungs} rungs: give at least 6")
        if min(self.seeds) < TUNING_SEEDS:
            raise ConfigError(
                f"Ladder seeds {self.seeds}: tuning seeds start at {TUNING_SEEDS}"
            )

    def rate(self, rung: int) -> float:
        """The rate of a rung; rungs below 0 and above the first `rungs` are added."""
        return float(f"{self.start * self.ratio**rung:.4g}")

    def extended(self, rungs: Sequence[int], best: int) -> list[int]:
        """`rungs` with two more at the end nearer `best`, at most `most` in all."""
        low, high = min(rungs), max(rungs)
        room = min(2, self.most - len(rungs))
        if best - low <= high - best:
            return [*range(low - room, low), *rungs]
        return [*rungs, *range(high + 1, high + 1 + room)]


@dataclasses.dataclass(frozen=True)
class Runs:
    """What a tier runs: every arm x seed under every match.

    rate: one stated learning rate, or a Ladder. arms: names; default: all of ARMS.
    """

    config: ConfigDict
    seeds: tuple[int, ...]
    rate: float | Ladder
    matches: tuple[Match, ...]
    arms: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A loaded experiment file."""

    path: Path
    question: str
    paper: str
    kind: str
    arms: Mapping[str, Any]
    axes: tuple[str, ...]
    runs: Callable[[str], Runs]
    claims: tuple[Claim, ...]
    hash: str


def load(path: Path) -> Experiment:
    """The experiment of a file; what is wrong in it is a ConfigError."""
    try:
        spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise ConfigError(f"experiment {path}:{line}: {error!r}") from error
    missing = [
        n for n in HASHED if n not in ("KIND", "CLAIMS") and not hasattr(module, n)
    ]
    if missing:
        raise ConfigError(f"experiment {path} lacks {', '.join(missing)}")
    kind = getattr(module, "KIND", "controlled")
    if kind not in KINDS:
        raise ConfigError(f"experiment {path}: KIND={kind!r}: take one of {KINDS}")
    claims = tuple(getattr(module, "CLAIMS", ()))
    for claim in claims:
        for arm in claim.criterion.arms(Table(module.ARMS)):
            if arm not in module.ARMS:
                raise ConfigError(
                    f"experiment {path}: the claim {claim.text!r} names an arm that "
                    f"ARMS lacks: {arm!r}"
                )
    return Experiment(
        path=path,
        question=module.QUESTION,
        paper=getattr(module, "PAPER", ""),
        kind=kind,
        arms=module.ARMS,
        axes=tuple(module.AXES),
        runs=module.runs,
        claims=claims,
        hash=content_hash(path),
    )


def content_hash(path: Path) -> str:
    """12 hex digits over the parts of the file that a result depends on.

    Comments and layout do not enter; neither do other names of the file, so whatever
    these parts use should stand in them.
    """
    parts = []
    for node in ast.parse(path.read_text()).body:
        targets = getattr(node, "targets", [node])
        names = {getattr(t, "id", getattr(t, "name", None)) for t in targets}
        if names & set(HASHED):
            parts.append(ast.dump(node))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def tier_runs(experiment: Experiment, tier: str) -> Runs:
    """runs(tier) of the file, with its arms and matches checked."""
    try:
        runs = experiment.runs(tier)
    except KeyError as error:
        raise ConfigError(
            f"--tier={tier}: {experiment.path} has no such tier ({error})"
        ) from error
    unknown = [arm for arm in runs.arms or () if arm not in experiment.arms]
    if unknown:
        raise ConfigError(
            f"{experiment.path}: runs({tier!r}) names no arm {unknown[0]!r}"
        )
    if not runs.seeds or (runs.arms is not None and not runs.arms):
        raise ConfigError(f"{experiment.path}: runs({tier!r}) has nothing to run")
    return runs


def arm_configs(experiment: Experiment, runs: Runs) -> dict[str, Any]:
    """{arm: resolved config}; an arm that differs outside AXES is a ConfigError."""
    resolved = {}
    for name in runs.arms or experiment.arms:
        arm = experiment.arms[name]
        changes = arm if isinstance(arm, Mapping) else {"model.pattern": tuple(arm)}
        resolved[name] = configs.resolve(configs.override(runs.config, changes))
    declared = {*experiment.axes, *(m.by for m in runs.matches)}
    if experiment.kind == "controlled":
        first, *others = resolved
        for other in others:
            for key, a, b in differences(resolved[first], resolved[other]):
                if key not in declared:
                    raise ConfigError(
                        f"arm {other!r} differs from {first!r} in {key} ({b!r} against "
                        f"{a!r}), no axis of {experiment.path}: make it equal, "
                        'add it to AXES, or state KIND = "recipes"'
                    )
    return resolved


def differences(a, b) -> list[tuple[str, Any, Any]]:
    """Differing keys of two arms; a mixer that one of them lacks is its pattern's."""
    return [
        row
        for row in configs.diff(a, b)
        if not (row[0].startswith("model.mixers.") and ABSENT in row[1:])
    ]
