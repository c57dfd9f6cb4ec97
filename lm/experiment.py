"""An experiment file: a question, its arms, what is held equal, and its claims.

A controlled experiment varies what AXES names and nothing else; an arm that differs
elsewhere is refused before any compute is spent. KIND = "recipes" allows differences
and the report lists them.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import itertools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm import config as configs
from lm.config import ABSENT, ConfigError
from lm.errors import choose
from lm.results import Table
from lm.runs import Ladder, Match, Runs
from lm.stats import Claim

__all__ = ["Experiment", "Ladder", "Match", "Runs", "arm_configs", "load", "tier_runs"]

KINDS = ("controlled", "recipes")
TUNES = ("once", "per cell")
NEEDED = ("QUESTION", "ARMS", "AXES", "MATCH", "runs")
HASHED = (*NEEDED, "KIND", "CLAIMS", "CELLS", "REFERENCE", "TUNE")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A loaded experiment file.

    Attributes:
      bases: ARMS of the file. arms: the same, or ARM@CELL of each with each of `cells`.
      cells: name -> changes that all arms share, such as a width.
      reference: the cell in which rates are chosen with tune="once"; "" without cells.
    """

    path: Path
    question: str
    paper: str
    kind: str
    bases: Mapping[str, Any]
    cells: Mapping[str, Mapping[str, Any]]
    reference: str
    tune: str
    axes: tuple[str, ...]
    runs: Callable[[str], Runs]
    claims: tuple[Claim, ...]
    hash: str

    @property
    def arms(self) -> dict[str, tuple[str, str]]:
        """{name: (base, cell)}; without cells the name is the base, the cell ""."""
        places = itertools.product(self.bases, self.cells or [""])
        return {named(base, cell): (base, cell) for base, cell in places}

    @property
    def tuned(self) -> dict[str, str]:
        """{arm: the arm whose learning rate is its own}."""
        once = self.tune == "once"
        return {
            arm: named(base, self.reference) if once else arm
            for arm, (base, _) in self.arms.items()
        }


def named(base: str, cell: str) -> str:
    """The name of an arm in a cell."""
    return f"{base}@{cell}" if cell else base


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
    missing = [name for name in NEEDED if not hasattr(module, name)]
    if missing:
        raise ConfigError(f"experiment {path} lacks {', '.join(missing)}")
    given = lambda name, default: getattr(module, name, default)
    cells = dict(given("CELLS", {}))
    experiment = Experiment(
        path=path,
        question=module.QUESTION,
        paper=given("PAPER", ""),
        kind=given("KIND", "controlled"),
        bases=module.ARMS,
        cells=cells,
        reference=given("REFERENCE", next(reversed(cells), "")),
        tune=given("TUNE", "once"),
        axes=tuple(module.AXES),
        runs=module.runs,
        claims=tuple(given("CLAIMS", ())),
        hash=content_hash(path),
    )
    _check(experiment)
    return experiment


def _check(experiment: Experiment) -> None:
    """ConfigError for a name that is none, or an arm with rates of its own."""
    path = experiment.path
    choose(f"experiment {path}: KIND", experiment.kind, KINDS)
    choose(f"experiment {path}: TUNE", experiment.tune, TUNES)
    if experiment.cells:
        name = f"experiment {path}: REFERENCE"
        choose(name, experiment.reference, experiment.cells)
    changes = [(a, b) for a, b in experiment.bases.items() if isinstance(b, Mapping)]
    for name, change in (*changes, *experiment.cells.items()):
        own = {"optim.lr", "seed"} & configs.flatten(change).keys()
        if own:
            raise ConfigError(
                f"experiment {path}: {name!r} sets {own.pop()} for itself, an unequal "
                "grid: rates and seeds are those of runs(tier), the same for all arms"
            )
    known = Table(dict.fromkeys(experiment.arms))
    for claim in experiment.claims:
        for arm in claim.criterion.arms(known):
            if arm not in experiment.arms:
                raise ConfigError(
                    f"experiment {path}: the claim {claim.text!r}: no arm is named "
                    f"{arm!r}; valid are {', '.join(experiment.arms)}"
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
    unknown = [arm for arm in runs.arms or () if arm not in experiment.bases]
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
    for name, (base, cell) in experiment.arms.items():
        if base not in (runs.arms or experiment.bases):
            continue
        arm = experiment.bases[base]
        changes = arm if isinstance(arm, Mapping) else {"model.pattern": tuple(arm)}
        config = configs.override(runs.config, experiment.cells.get(cell, {}))
        resolved[name] = configs.resolve(configs.override(config, changes))
    if experiment.kind == "controlled":
        shared = {*experiment.axes, *(m.by for m in runs.matches)}
        for cell in experiment.cells or [""]:
            inside = [n for n in resolved if experiment.arms[n][1] == cell]
            _check_differences(experiment.path, resolved, inside, shared)
    return resolved


def _check_differences(path: Path, resolved: dict, names: list[str], declared) -> None:
    """ConfigError where the arms `names`, of one cell, differ in an undeclared key."""
    first, *others = names
    for other in others:
        for key, a, b in differences(resolved[first], resolved[other]):
            if key not in declared:
                raise ConfigError(
                    f"arm {other!r} differs from {first!r} in {key} ({b!r} against "
                    f"{a!r}), no axis of {path}: make it equal, "
                    'add it to AXES, or state KIND = "recipes"'
                )


def differences(a, b) -> list[tuple[str, Any, Any]]:
    """Differing keys of two arms; a mixer that one of them lacks is its pattern's."""
    return [
        row
        for row in configs.diff(a, b)
        if not (row[0].startswith("model.mixers.") and ABSENT in row[1:])
    ]
