"""What each command of run.py does, given its flags."""

from pathlib import Path

from lm.arguments import steps
from lm.errors import ConfigError, choose, nearest
from lm.signals import interrupts

RESULTS, README = Path("experiments/results"), Path("README.md")


def train(values: dict, overrides: dict) -> int:
    profile = steps(values["profile"])
    config = _config(values, overrides)
    workdir = required_folder(values, "workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be made: {error.strerror}"
        ) from error
    with interrupts():  # from here on a signal saves: imports take seconds
        from lm import train

        status = train.run(config, workdir, profile)["status"]
    return {"done": 0, "diverged": 3}[status]


def compare(values: dict, overrides: dict) -> int:
    experiment = Path(values["EXPERIMENT.py"])
    if not experiment.is_file():
        near = nearest(str(experiment), map(str, Path("experiments").glob("*.py")))
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"experiment {str(experiment)!r}: no such file{hint}")
    tier, workers = values["tier"], _workers(values)
    out = Path(values["out"] or f"runs/{experiment.stem}-{tier}")
    from lm.sweep import compare

    return compare.compare(experiment, tier, out, values["dry"], workers)


def reproduce(values: dict, overrides: dict) -> int:
    from lm.sweep import reproduce

    folder = Path(values["experiments"])
    return reproduce.reproduce(
        folder, RESULTS, values["tier"], README, _workers(values)
    )


def _workers(values: dict) -> int | None:
    count = values["workers"]
    if count is not None and count < 1:
        raise ConfigError(f"--workers={count} must be at least 1")
    return count


def count(values: dict, overrides: dict) -> int:
    config = _config(values, overrides)
    context = values["context"]
    if context is not None and context < 1:
        raise ConfigError(f"--context={context} must be at least 1")
    from lm import count

    print(count.table(config, context or config.data.context))
    return 0


def bench(values: dict, overrides: dict) -> int:
    choose("bench", values["WHAT"], ("decode",))
    choose("--weights", values["weights"], ("float32", "int8"))
    for name in ("batch", "tokens", "vocab"):
        if values[name] < 1:
            raise ConfigError(f"--{name}={values[name]} must be at least 1")
    contexts = values["contexts"].split(",")
    if not all(n.isascii() and n.isdigit() and int(n) for n in contexts):
        raise ConfigError(
            f"--contexts={values['contexts']} must be numbers, at least 1, with commas "
            "between, as in 64,1024"
        )
    config = _config(values, overrides)
    from lm import bench, limits

    rows = bench.decode(
        config,
        tuple(map(int, contexts)),
        values["batch"],
        values["tokens"],
        values["weights"],
        values["vocab"],
        limits.read_bandwidth,
    )
    for i, row in enumerate(rows):
        if i == 0:
            print(" ".join(f"{name:>13}" for name in bench.HEAD))
        print(bench.line(row), flush=True)
    return 0


def doctor(values: dict, overrides: dict) -> int:
    from lm import doctor

    return doctor.run(values["json"])


def report(values: dict, overrides: dict) -> int:
    if values["all"]:
        from lm.report import index

        if values["OUT"]:
            print(index.write(Path(values["OUT"])))
        else:
            print(index.write(RESULTS, README))
        return 0
    if not values["OUT"]:
        raise ConfigError("report takes OUT, the folder of a comparison, or --all")
    out = Path(values["OUT"])
    if not (out / "plan.json").is_file():
        raise ConfigError(f"{str(out)!r} is no folder of a comparison: no plan.json")
    from lm.sweep import compare

    compare.report(out)
    return 0


def _config(values: dict, overrides: dict):
    """The resolved config of --config; an override without effect is an error."""
    from lm import config as configs

    config = configs.resolve(configs.load(values["config"], overrides))
    for key in overrides:
        if key not in configs.flatten(config):
            raise ConfigError(
                f"{key} has no effect: model.pattern={config.model.pattern} does not "
                "use that mixer"
            )
    return config


def required_folder(values: dict, flag: str, holds: str | None = None) -> Path:
    """The path of a flag that must be given, and must hold the file `holds`."""
    if not values[flag]:
        raise ConfigError(f"--{flag} is missing; write --{flag}=FOLDER")
    path = Path(values[flag])
    if holds and not (path / holds).is_file():
        raise ConfigError(f"--{flag}={path} is no run's folder: it has no {holds}")
    return path
