"""What each command of run.py does, and its flags."""

import json
import math
from pathlib import Path

from lm.arguments import Command, Flag, steps
from lm.errors import ConfigError, choose, nearest
from lm.signals import interrupts


def _train(values: dict, overrides: dict) -> int:
    profile = steps(values["profile"])
    config = _config(values, overrides)
    workdir = _required_folder(values, "workdir")
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


def _compare(values: dict, overrides: dict) -> int:
    experiment = Path(values["EXPERIMENT.py"])
    if not experiment.is_file():
        near = nearest(str(experiment), map(str, Path("experiments").glob("*.py")))
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"experiment {str(experiment)!r}: no such file{hint}")
    tier, workers = values["tier"], _workers(values)
    out = Path(values["out"] or f"runs/{experiment.stem}-{tier}")
    from lm.sweep import compare

    return compare.compare(experiment, tier, out, values["dry"], workers)


def _reproduce(values: dict, overrides: dict) -> int:
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


def _evaluate(values: dict, overrides: dict) -> int:
    workdir = _required_folder(values, "workdir", "config.json")
    protocols = tuple(values["protocol"].split(",")) if values["protocol"] else ()
    choose("--split", values["split"], ("train", "validation", "test"))
    from lm import evaluate

    result = evaluate.run(workdir, values["split"], protocols)
    if values["json"]:
        print(json.dumps(result, indent=2))
        return 0
    names = ("tokens", "nats_per_token", "perplexity", "bits_per_byte")
    if not any("perplexity" in row for row in result.values()):
        names = ("tokens", "nats_per_token", "accuracy", "exact")
    print(f"{'protocol':10}", *(f"{name:>15}" for name in names))
    for protocol, row in result.items():
        if "unavailable" in row:
            print(f"{protocol:10} unavailable: {row['unavailable']}")
        else:
            print(f"{protocol:10}", *(f"{row[name]:15,.6g}" for name in names))
    return 0


def _generate(values: dict, overrides: dict) -> int:
    workdir = _required_folder(values, "workdir", "config.json")
    for name, good, words in (
        ("tokens", values["tokens"] >= 1, "at least 1"),
        ("n", values["n"] >= 1, "at least 1"),
        ("top_k", values["top_k"] >= 0, "0 (no limit) or more"),
        ("top_p", 0 < values["top_p"] <= 1, "above 0 and at most 1"),
        ("temperature", 0 <= values["temperature"] < math.inf, "0 (greedy) or more"),
        ("seed", 0 <= values["seed"] < 2**31, "in [0, 2**31)"),
        ("prompt", all(values["prompt"]), "a text that is not empty"),
    ):
        if not good:
            raise ConfigError(f"--{name}={values[name]} must be {words}")
    from lm import config as configs
    from lm import generate

    stored = configs.from_json((workdir / "config.json").read_text())
    texts = generate.run(
        workdir,
        prompts=values["prompt"] or [stored.run.prompt],
        tokens=values["tokens"],
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        seed=values["seed"],
        n=values["n"],
    )
    print("\n---\n".join(texts))
    return 0


def _count(values: dict, overrides: dict) -> int:
    config = _config(values, overrides)
    context = values["context"]
    if context is not None and context < 1:
        raise ConfigError(f"--context={context} must be at least 1")
    from lm import count

    print(count.table(config, context or config.data.context))
    return 0


def _bench(values: dict, overrides: dict) -> int:
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


def _doctor(values: dict, overrides: dict) -> int:
    from lm import doctor

    return doctor.run(values["json"])


def _report(values: dict, overrides: dict) -> int:
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


def _required_folder(values: dict, flag: str, holds: str | None = None) -> Path:
    """The path of a flag that must be given, and must hold the file `holds`."""
    if not values[flag]:
        raise ConfigError(f"--{flag} is missing; write --{flag}=FOLDER")
    path = Path(values[flag])
    if holds and not (path / holds).is_file():
        raise ConfigError(f"--{flag}={path} is no run's folder: it has no {holds}")
    return path


RESULTS, README = Path("experiments/results"), Path("README.md")
WORKERS = Flag("workers", None, "processes; default: one a core or device", int)
CONFIG = Flag("config", "configs/base.py", "a file, or file.py:argument")
RUN = Flag("workdir", None, "the folder of a finished or stopped run")
COMMANDS = {
    "train": Command(
        _train,
        "Train one model; the same command again resumes.",
        (
            CONFIG,
            Flag("workdir", None, "where everything of this run is written"),
            Flag("profile", None, "START:STOP, updates to trace into WORKDIR/profile"),
        ),
        config=True,
    ),
    "compare": Command(
        _compare,
        "Run an experiment: all arms, rates and seeds, and their report.",
        (
            Flag("tier", "tiny", "a size that the experiment names"),
            Flag("out", None, "folder of the comparison; default runs/NAME-TIER"),
            Flag("dry", False, "print the plan and its cost, and run nothing", bool),
            WORKERS,
        ),
        positional="EXPERIMENT.py",
    ),
    "reproduce": Command(
        _reproduce,
        "Run each experiment that experiments/results lacks; keep its report there.",
        (
            Flag("experiments", "experiments", "folder of experiment files"),
            Flag("tier", "tiny", "of all that have it"),
            WORKERS,
        ),
    ),
    "evaluate": Command(
        _evaluate,
        "Evaluate a run: nats, perplexity and bits per byte.",
        (
            RUN,
            Flag("split", "test", "train, validation or test"),
            Flag("protocol", None, "of a text window, stream; of a task its tests"),
            Flag("json", False, "print everything, as JSON", bool),
        ),
    ),
    "generate": Command(
        _generate,
        "Continue prompts with a trained model.",
        (
            RUN,
            Flag("prompt", [], "may be repeated; default: the run's own", list),
            Flag("tokens", 200, "tokens to generate", int),
            Flag("temperature", 1.0, "0 is greedy", float),
            Flag("top_k", 0, "draw from the k likeliest tokens; 0: from all", int),
            Flag("top_p", 1.0, "draw from the likeliest of this total", float),
            Flag("seed", 0, "of the draws", int),
            Flag("n", 1, "continuations of each prompt", int),
        ),
    ),
    "count": Command(
        _count,
        "Count parameters, FLOPs and state bytes; nothing is trained.",
        (CONFIG, Flag("context", None, "tokens; default: data.context", int)),
        config=True,
    ),
    "bench": Command(
        _bench,
        "Time decoding: tokens/s at each context, beside the bound of memory.",
        (
            CONFIG,
            Flag("contexts", "64,1024", "tokens read before, with commas between"),
            Flag("batch", 1, "rows decoded at once", int),
            Flag("tokens", 16, "tokens of a run; the median of 5 runs counts", int),
            Flag("weights", "float32", "float32, or int8: less memory"),
            Flag("vocab", 256, "tokens of the vocabulary; GPT-2 has 50257", int),
        ),
        positional="WHAT",
        config=True,
    ),
    "doctor": Command(
        _doctor,
        "Say what this machine has, how fast it is, what is wrong and the fix.",
        (Flag("json", False, "print everything, as JSON", bool),),
    ),
    "report": Command(
        _report,
        "Write a comparison's report again from its files; --all: an index of many.",
        (Flag("all", False, "one page over OUT's reports; default: README's", bool),),
        positional="OUT",
        optional=True,
    ),
}
