"""What a workdir holds: one run on one text, or on another that its user accepted.

config.json and data.json (the corpus's manifest) are those of now; "history" in
data.json has those before, each with the step at which the next took over.
"""

import json
from pathlib import Path
from typing import Any

from lm import config as configs
from lm.config import ConfigError
from lm.workdir import write_json


def claim(config, workdir: Path) -> None:
    """Writes config.json, or refuses a workdir that holds another run.

    Where only keys of the text differ, `same_data` decides once the text is known.
    """
    path = workdir / "config.json"
    if path.exists():
        changed = _differing(config, workdir)
        ended = (workdir / "result.json").exists()
        known = (workdir / "data.json").exists()
        for key, was, now in changed:
            if not _of_text(key) or ended or not known:
                raise ConfigError(
                    f"{workdir} holds another run: {key} is {was!r} there and {now!r} "
                    "now; take another --workdir, or the same config"
                )
        if changed:
            return
    write_json(path, config.to_dict())


def same_data(config, corpus, workdir: Path, step: int) -> dict:
    """Writes data.json, or refuses to go on from `step` with a text not accepted.

    Returns the manifest of the corpus, with its history where it has one. ConfigError
    names what changed and the run.accept_data that goes on with it.
    """
    path, manifest = workdir / "data.json", dict(corpus.manifest)
    if path.exists():
        was = json.loads(path.read_text())
        history = was.pop("history", [])
        keys = _differing(config, workdir)
        if keys or was["fingerprint"] != corpus.fingerprint:
            # Under one fingerprint all tokens are the same: a file has moved.
            other = was["fingerprint"] != corpus.fingerprint
            if other and not _accepts(config, corpus):
                raise _refusal(config, corpus, workdir, was, keys)
            size = was.get("vocab_size", corpus.vocab_size)
            if size != corpus.vocab_size:
                raise ConfigError(
                    f"the embedding in {workdir} has a row for each of {size} tokens, "
                    f"and the new text's tokenizer has {corpus.vocab_size}: take "
                    "another --workdir"
                )
            own = configs.from_json((workdir / "config.json").read_text())
            entry = {"until": step, "config": configs.fingerprint(own)}
            history = [*history, entry | {"manifest": was}]
        if history:
            manifest["history"] = history
    write_json(path, manifest)
    write_json(workdir / "config.json", config.to_dict())
    return manifest


def check_checkpoint(saved: dict, meta: dict, manifest: dict, workdir: Path) -> None:
    """ConfigError if a checkpoint is of another run, or of a text not in `manifest`."""
    pair = lambda facts: (facts["fingerprint"], facts["data"])
    accepted = [
        (entry["config"], entry["manifest"]["fingerprint"])
        for entry in manifest.get("history", [])
    ]
    if pair(saved) in accepted:
        return
    for key in ("fingerprint", "data"):
        if saved[key] != meta[key]:
            raise ConfigError(
                f"the checkpoint in {workdir} is of another run: its {key} is "
                f"{saved[key]}, now {meta[key]}; take another --workdir"
            )


def _accepts(config, corpus) -> bool:
    digits = config.run.accept_data
    return digits is not None and corpus.fingerprint.startswith(digits)


def _of_text(key: str) -> bool:
    """Whether a key says which text is read, and changes nothing else."""
    return key.startswith("data.") and key != "data.context"


def _differing(config, workdir: Path) -> list[tuple[str, Any, Any]]:
    """Keys that change the result, as the workdir has them and now."""
    own = configs.from_json((workdir / "config.json").read_text())
    rows = configs.diff(own, config)
    return [row for row in rows if configs.changes_result(row[0])]


def _refusal(config, corpus, workdir: Path, was: dict, keys: list) -> ConfigError:
    """The error for a text that is another one, with all that differs."""
    now, new = corpus.manifest, corpus.fingerprint[:12]
    facts = [key for key in was | now if key not in ("fingerprint", "key", "dtype")]
    rows = keys + [(key, was.get(key), now.get(key)) for key in facts]
    changes = [f"{k}: {_short(a)} -> {_short(b)}" for k, a, b in rows if a != b]
    flag = config.run.accept_data
    asked = f"run.accept_data={flag!r} is not this text; " if flag else ""
    return ConfigError(
        f"{workdir} was trained on other data (fingerprint {was['fingerprint'][:12]}, "
        f"now {new}). Changed: {'; '.join(changes)}. {asked}Restore it, take another "
        f"--workdir, or go on with the new text by --config.run.accept_data={new}"
    )


def _short(value) -> str:
    """A value in a line: the first 12 digits of a hash, the first 60 letters."""
    text = value if isinstance(value, str) else json.dumps(value)
    is_hash = len(text) == 64 and not set(text) - set("0123456789abcdef")
    if is_hash:
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."
