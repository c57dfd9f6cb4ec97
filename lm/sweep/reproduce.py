"""All experiments: what has no report of its file as it is now is run, and kept."""

import shutil
from pathlib import Path

from lm import experiment as experiments
from lm.report import index
from lm.results import read_json
from lm.sweep import compare

# What of a comparison's folder is kept: enough to read and check it, not to make again.
KEPT = (
    "plan.json",
    "ledger.jsonl",
    "yardsticks.json",
    "speed.json",
    "table.csv",
    "verdicts.json",
    "report.md",
    "report.html",
)


def reproduce(
    folder: Path, results: Path, tier: str, readme: Path, worker_count: int | None
) -> int:
    """Runs every experiment of `folder` that `results` lacks; the worst exit code.

    One is there if results/NAME-TIER holds verdicts of the file's own hash. Each is run
    in runs/NAME-TIER-HASH, goes on there if it was stopped, and is kept as it finishes.
    """
    code = 0
    for path in sorted(folder.glob("*.py")):
        experiment = experiments.load(path)
        try:
            experiments.tier_runs(experiment, tier)
        except experiments.ConfigError as error:
            print(f"{path.stem}: {error}")
            continue
        kept = results / f"{path.stem}-{tier}"
        if read_json(kept / "verdicts.json").get("experiment_hash") == experiment.hash:
            print(f"{path.stem}: {kept} is of this file")
            continue
        out = Path("runs") / f"{kept.name}-{experiment.hash}"
        print(f"{path.stem}: in {out}", flush=True)
        done = compare.compare(path, tier, out, False, worker_count)
        code = max(code, done)
        if done == 0:
            keep(out, kept)
            index.write(results, readme)
    return code


def keep(out: Path, kept: Path) -> None:
    """Copies the report of a finished comparison and what it was made from."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (out / name).exists():
            shutil.copy(out / name, kept / name)
    shutil.rmtree(kept / "figures", ignore_errors=True)
    shutil.copytree(out / "figures", kept / "figures")
