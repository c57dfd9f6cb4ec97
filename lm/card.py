"""The run card: what ran, on what, from which code, and how it came out.

card.json is read and written by each process of a run; card.md says the same to people.
"""

import shlex
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from lm import config as configs
from lm import runtime
from lm.checkpoint import steps_of
from lm.results import read_json
from lm.revision import Revision, revision
from lm.signals import Preempted
from lm.workdir import write_json

PATCH_BYTES = 1_000_000  # a larger patch leaves its hash and size alone
FACTS = ("source", "version", "sha256", "bytes", "tokens", "documents", "fingerprint")
FIGURES = {
    "test bits per byte, window": ("test", "window", "bits_per_byte"),
    "test bits per byte, stream": ("test", "stream", "bits_per_byte"),
    "validation bits per byte": ("validation", "window", "bits_per_byte"),
    "test accuracy": ("test", "same", "accuracy"),
    "parameters": ("count", "params"),
    "training FLOPs": ("count", "train_flops"),
    "state bytes": ("count", "state_bytes"),
    "tokens per second": ("speed", "tokens_per_second"),
    "seconds of training": ("speed", "seconds"),
}


class Card:
    """card.json and card.md of a workdir, in a `with` block around its run.

    `start` adds a row for this process, the end of the block how it ended; a row
    without an end is of a process that was killed, or is at work. A card that cannot be
    written is a warning.
    """

    def __init__(self, config, workdir: Path):
        self._config, self._workdir = config, workdir
        self._card: dict | None = None  # None: not started

    def __enter__(self) -> "Card":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is None:
            return
        step = max(steps_of(self._workdir / "checkpoints"), default=0)
        if isinstance(error, Preempted):
            self._end(f"preempted ({error})", step)
        else:
            words = " ".join(f"{kind.__name__}: {error}".split())
            self._end(f"failed ({words[:200]})", step)

    def start(self, step: int, corpus: dict) -> None:
        """This process goes on from `step`, with the corpus of this manifest."""
        known = read_json(self._workdir / "card.json")
        row = {
            "step": step,
            "time": _now(),
            "host": socket.gethostname(),
            "command": [Path(sys.executable).name, *sys.argv],
            "code": self._code(revision()),
            "machine": runtime.machine(),
            "instructions": runtime.instructions(),
            "end": None,
        }
        splits = {
            name: stop - start for name, (start, stop) in corpus["splits"].items()
        }
        self._card = {
            "name": self._config.name,
            "fingerprint": configs.fingerprint(self._config),
            "seed": self._config.seed,
            "data": {k: corpus[k] for k in FACTS if k in corpus} | {"splits": splits},
            "status": "running",
            "figures": {},
            "starts": [*known.get("starts", []), row],
        }
        self._write()

    def end(self, result: dict) -> None:
        """The run's result.json is written."""
        if self._card:
            self._card["figures"] = figures(result)
        self._end(result["status"], result["step"])

    def _end(self, status: str, step: int) -> None:
        if self._card:
            self._card["status"] = status
            end = {"step": step, "time": _now(), "status": status}
            self._card["starts"][-1]["end"] = end
            self._write()

    def _code(self, code: Revision) -> dict:
        """What a row says of the code; "patch" is a file of the workdir, or None."""
        name = f"patches/{code.patch_hash}.patch"

        def save() -> None:
            path = self._workdir / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(code.patch)

        kept = 0 < len(code.patch) <= PATCH_BYTES and _tried(save)
        return code._asdict() | {
            "patch": name if kept else None,
            "patch_hash": code.patch_hash,
            "patch_bytes": len(code.patch),
        }

    def _write(self) -> None:
        def write() -> None:
            write_json(self._workdir / "card.json", self._card)
            (self._workdir / "card.md").write_text(page(self._card), encoding="utf-8")

        _tried(write)


def figures(result: dict) -> dict[str, float]:
    """{name: value} of the headline figures that a result has."""
    found = {}
    for name, path in FIGURES.items():
        node = result
        for key in path:
            node = node.get(key, {})
        if node != {}:
            found[name] = node
    return found


def page(card: dict) -> str:
    """card.md of a card.json."""
    starts, data = card["starts"], card["data"]
    last = starts[-1]
    machine = last["machine"]
    end = last["end"] or {"step": last["step"]}
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    lines = [
        f"# {card['name']}, seed {card['seed']}",
        "",
        f"{card['status']}, step {end['step']}. Config `config.json`, fingerprint "
        f"`{card['fingerprint']}`.",
        "",
        *(["| figure | value |", "|---|---|"] if card["figures"] else []),
        *(f"| {name} | {value:,.6g} |" for name, value in card["figures"].items()),
        "",
        "## Data",
        "",
        *(f"- {name}: {value}" for name, value in data.items() if name != "splits"),
        "- tokens: "
        + ", ".join(f"{name} {size:,}" for name, size in data["splits"].items()),
        "",
        "## Machine",
        "",
        f"- {machine['devices']} {machine['platform']} ({machine['device']}), "
        f"{machine['cpus']} CPUs visible: {last['instructions']}",
        f"- Python {machine['python']}, {packages}",
        "",
        "## Processes",
        "",
        "| from step | at | on | code | to step | at | ended |",
        "|---|---|---|---|---|---|---|",
        *map(_process, starts),
        "",
        *dict.fromkeys(f"    {shlex.join(start['command'])}" for start in starts),
        "",
    ]
    return "\n".join(lines)


def _process(start: dict) -> str:
    """A row of the table of processes."""
    code, end = start["code"], start["end"]
    words = code["commit"][:12] if code["commit"] else f"unknown: {code['why']}"
    if code["patch_hash"]:
        words += f" + {code['patch'] or code['patch_hash'] + ' (not kept)'}"
    if code["untracked"]:
        words += f", untracked {' '.join(code['untracked'])}"
    after = (end["step"], end["time"], end["status"]) if end else ("", "", "no word")
    cells = (start["step"], start["time"], start["host"], words, *after)
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tried(write) -> bool:
    """Whether it could be written; a warning where not."""
    try:
        write()
    except OSError as error:
        print(f"WARNING: the run card is not written: {error}", file=sys.stderr)
        return False
    return True
