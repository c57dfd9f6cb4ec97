"""What the commands of run.py do with a trained model, given their flags."""

import importlib.util
import json
import sys
from pathlib import Path

from lm.actions import required_folder
from lm.errors import ConfigError, choose


def evaluate(values: dict, overrides: dict) -> int:
    if values["tasks"]:
        return _harness(values)
    for name in ("pretrained", "include_path", "num_fewshot", "limit"):
        if values[name] is not None:
            raise ConfigError(f"--{name}={values[name]} is of --tasks: name some")
    workdir = required_folder(values, "workdir", "config.json")
    protocols = tuple(values["protocol"].split(",")) if values["protocol"] else ()
    choose("--split", values["split"], ("train", "validation", "test"))
    from lm import evaluate
    from lm.metrics import METRICS

    result = evaluate.run(workdir, values["split"], protocols)
    if values["json"]:
        print(json.dumps(result, indent=2))
        return 0
    names = ("tokens", "nats_per_token", "perplexity", "bits_per_byte")
    if not any("perplexity" in row for row in result.values()):
        names = ("tokens", "nats_per_token", "accuracy", "exact")
        figures = ("bits_per_byte", *METRICS)
        names += tuple(n for n in figures if any(n in r for r in result.values()))
    print(f"{'protocol':12}", *(f"{name:>15}" for name in names))
    for protocol, row in result.items():
        if "unavailable" in row:
            print(f"{protocol:12} unavailable: {row['unavailable']}")
        else:
            cells = (f"{row[n]:15,.6g}" if n in row else f"{'-':>15}" for n in names)
            print(f"{protocol:12}", *cells)
    return 0


def _harness(values: dict) -> int:
    """Tasks of lm-evaluation-harness."""
    workdir = _run_or_pretrained(values)
    for name, least in (("limit", 1), ("num_fewshot", 0)):
        if values[name] is not None and values[name] < least:
            raise ConfigError(f"--{name}={values[name]} must be at least {least}")
    if not importlib.util.find_spec("lm_eval"):
        raise ConfigError(
            "--tasks needs lm-evaluation-harness, which is not installed: pip install "
            "lm_eval"
        )
    from lm import generate, harness

    found = harness.evaluate(
        generate.opened(workdir, values["pretrained"]),
        values["tasks"].split(","),
        values["include_path"],
        values["num_fewshot"],
        values["limit"],
    )
    print(json.dumps(found, indent=2) if values["json"] else harness.table(found))
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


def chat(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    if values["room"] < 1:
        raise ConfigError(f"--room={values['room']} must be at least 1")
    if values["end"] == "":
        raise ConfigError("--end= must be a text that is not empty")
    from lm import generate, interop

    known = generate.Asked._fields
    asked = generate.Asked(**{k: v for k, v in values.items() if k in known}).checked()
    found = generate.opened(workdir, values["pretrained"])
    given = {k: values[k] for k in generate.Template._fields if values[k] is not None}
    template = None
    if not workdir and not given:
        template = interop.template_of(interop.located(values["pretrained"]))
    if template is None:
        template = generate.Template(**given)
        asked = asked._replace(stop_strings=(template.end,))
    talk = generate.Chat(
        *found[:3],
        asked._replace(eos_token_id=found.eos_token_id),
        template,
        values["room"],
        values["system"],
    )
    for line in sys.stdin:
        for piece in talk.say(line.rstrip("\n")):
            print(piece, end="", flush=True)
        print(flush=True)
    return 0


def score(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    texts = [*values["text"], *map(read, values["file"])]
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
    workdir = required_folder(values, "workdir", "config.json")
    if not values["out"]:
        raise ConfigError("--out is missing; write --out=FOLDER")
    from lm.interop import export

    print(export.run(workdir, Path(values["out"])))
    return 0


def fill(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    texts, k = _texts(values), values["top_k"]
    if k < 1:
        raise ConfigError(f"--top_k={k} must be at least 1")
    from lm import encoder

    found = encoder.opened(workdir, values["pretrained"])
    rows = [(text, encoder.fill(found, text, k)) for text in texts]
    if values["json"]:
        plain = [
            {"text": text, "marks": [[list(each) for each in mark] for mark in marks]}
            for text, marks in rows
        ]
        print(json.dumps(plain, indent=2))
        return 0
    for text, marks in rows:
        print(text)
        for mark in marks:
            print("  " + "  ".join(f"{word!r} {p:.3f}" for word, p in mark))
    return 0


def embed(values: dict, overrides: dict) -> int:
    workdir = _run_or_pretrained(values)
    texts = _texts(values)
    choose("--pool", values["pool"], ("mean", "first", "pooled"))
    if not values["out"]:
        raise ConfigError("--out is missing; write --out=FILE.npy")
    import numpy as np

    from lm import encoder

    found = encoder.opened(workdir, values["pretrained"])
    rows_nxD = encoder.embeddings(found, texts, values["pool"])
    path = Path(values["out"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.save(file, rows_nxD)
    except OSError as error:
        message = f"--out={path} cannot be written: {error.strerror}"
        raise ConfigError(message) from error
    print(f"{path}: {len(rows_nxD)} rows of {rows_nxD.shape[1]}, of length 1")
    return 0


def _texts(values: dict) -> list[str]:
    """Those of --text, and of --file a line each."""
    texts = list(values["text"])
    for name in values["file"]:
        texts += [line for line in read(name).splitlines() if line.strip()]
    if not texts:
        raise ConfigError("no text: write --text=WORDS or --file=FILE")
    return texts


def read(name: str) -> str:
    """The text of a file of --file."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file={name} cannot be read: {error}") from error


def _run_or_pretrained(values: dict) -> Path | None:
    """The folder of --workdir; None where --pretrained is given instead."""
    if values["pretrained"] and values["workdir"]:
        raise ConfigError("give --workdir or --pretrained, not both")
    if values["pretrained"]:
        return None
    return required_folder(values, "workdir", "config.json")
