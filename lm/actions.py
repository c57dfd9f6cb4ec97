"""What each command of run.py does, given its flags."""

import json
from pathlib import Path

from lm.arguments import steps
from lm.errors import ConfigError, choose, nearest
from lm.signals import interrupts

RESULTS, README = Path("experiments/results"), Path("README.md")


def train(values: dict, overrides: dict) -> int:
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


def evaluate(values: dict, overrides: dict) -> int:
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


def generate(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    if not workdir and not values["prompt"]:
        raise ConfigError("--prompt is missing; a pretrained model has none of its own")
    if not all(values["prompt"]):
        raise ConfigError("--prompt= must be a text that is not empty")
    from lm import config as configs
    from lm import generate

    asked = {name: values[name] for name in generate.Asked._fields}
    asked["stop_strings"] = tuple(values["stop_strings"])
    asked["eos_token_id"] = _ids("eos_token_id", values)
    asked = generate.Asked(**asked).checked()
    prompts = values["prompt"]
    model, params, text, ends = generate.opened(workdir, values["pretrained"])
    if not prompts:
        stored = configs.from_json((workdir / "config.json").read_text())
        prompts = [stored.run.prompt]
    asked = asked._replace(eos_token_id=asked.eos_token_id or ends)
    if values["stream"]:
        if len(prompts) > 1:
            raise ConfigError("--stream takes one --prompt")
        print(prompts[0], end="", flush=True)
        for piece in generate.stream(model, params, text, prompts[0], asked):
            print(piece, end="", flush=True)
        print()
        return 0
    print("\n---\n".join(generate.generate(model, params, text, prompts, asked)))
    return 0


def score(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    texts = list(values["text"])
    for name in values["file"]:
        try:
            texts.append(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--file={name} cannot be read: {error}") from error
    context, stride = values["context"], values["stride"]
    if not texts:
        raise ConfigError("nothing to score: write --text=WORDS or --file=FILE")
    if context is not None and context < 2:
        raise ConfigError(f"--context={context} must be at least 2")
    if stride is not None and (context is None or not 1 <= stride < context):
        raise ConfigError(
            f"--stride={stride} must be at least 1 and below --context={context}"
        )
    from lm import generate, scores

    model, params, text, _ = generate.opened(workdir, values["pretrained"])
    rows = scores.of_texts(model, params, text, texts, context or 0, stride or 0)
    if values["json"]:
        print(json.dumps(rows, indent=2))
        return 0
    names = ("tokens", "log_p", "nats_per_token", "perplexity", "bits_per_byte")
    print(*(f"{name:>15}" for name in names), " text")
    for row, words in zip(rows, texts, strict=True):
        shown = words if len(words) <= 40 else f"{words[:40]}..."
        print(*(f"{row[name]:15,.6g}" for name in names), f" {shown!r}")
    return 0


def _ids(name: str, values: dict) -> tuple[int, ...]:
    """The numbers of a flag that may be given several times."""
    for word in values[name]:
        if not (word.isascii() and word.isdigit()):
            raise ConfigError(f"--{name}={word} must be the number of a token")
    return tuple(map(int, values[name]))


def export(values: dict, overrides: dict) -> int:
    workdir = _required_folder(values, "workdir", "config.json")
    if not values["out"]:
        raise ConfigError("--out is missing; write --out=FOLDER")
    from lm.interop import export

    print(export.run(workdir, Path(values["out"])))
    return 0


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


def _run_or_pretrained(values: dict) -> Path | None:
    """The folder of --workdir; None where --pretrained is given instead."""
    if values["pretrained"] and values["workdir"]:
        raise ConfigError("give --workdir or --pretrained, not both")
    if values["pretrained"]:
        return None
    return _required_folder(values, "workdir", "config.json")


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
