"""`run.py doctor`: what this machine has, how fast it is, what is wrong and the fix.

facts.py gathers a record, probe.py what only jax knows; checks.py judges the record.
The command's own process imports no jax, so that nothing it finds can take it down.
"""

import json
from typing import Any

from lm.doctor import checks, facts


def run(as_json: bool) -> int:
    """Prints the record and the findings; 1 if something is wrong, else 0."""
    record = facts.gather()
    found = checks.judge(record)
    if as_json:
        whole = {"facts": record, "findings": [f._asdict() for f in found]}
        print(json.dumps(whole, indent=2, default=str))
    else:
        print(text(record, found))
    return int(any(f.level == "wrong" for f in found))


def text(record: dict[str, Any], found: list[checks.Finding]) -> str:
    """The record, a line a subject, and each finding with its fix."""
    lines = []
    for name, show in SHOWN.items():
        why = checks.unknown(record[name])
        first, *others = [f"unknown: {why}"] if why else show(record[name])
        lines += [f"{name:12}{first}", *(f"{'':12}{other}" for other in others)]
    lines.append("")
    for finding in found:
        lines += [f"{finding.level}: {finding.problem}", f"  fix: {finding.fix}"]
    wrong = sum(f.level == "wrong" for f in found)
    return "\n".join([*lines, f"{wrong} wrong" if wrong else "nothing is wrong"])


def _python(python: dict) -> list[str]:
    return [f"{python['version']}, {python['executable']}"]


def _packages(packages: list[dict]) -> list[str]:
    fit = sum(package["fits"] for package in packages)
    core = ("jax", "jaxlib", "flax", "optax", "numpy")
    names = [p for p in packages if p["name"] in core or not p["fits"]]
    told = ", ".join(f"{p['name']} {p['installed'] or 'missing'}" for p in names)
    return [f"{fit} of {len(packages)} as required: {told}"]


def _cards(cards: dict[str, dict]) -> list[str]:
    rows = [
        f"{len(card['present'])} x {card['maker']}, visible {card['visible']}, plugin "
        f"{', '.join(card['plugins']) or 'missing'}, driver {card['driver'] or '-'}"
        for card in cards.values()
        if card["present"]
    ]
    return rows or ["no GPU or TPU found"]


def _jax(jax: dict) -> list[str]:
    counts: dict[str, int] = {}
    for device in jax.get("devices", []):
        memory = device["memory"]
        kind = device["kind"] + (f", {size(memory)} each" if memory else "")
        counts[kind] = counts.get(kind, 0) + 1
    rows = [f"{jax['backend']}: {number} x {kind}" for kind, number in counts.items()]
    return [*rows, *([jax["error"]] if jax.get("error") else [])]


def _cpus(cpus: dict) -> list[str]:
    quota = "none" if cpus["quota"] is None else f"{cpus['quota']:g} CPUs"
    return [
        f"{cpus['model']}: {cpus['visible']} visible of {cpus['total']}, quota {quota}"
    ]


def _memory(memory: dict) -> list[str]:
    limit = f", limit {size(memory['limit'])}" if memory["limit"] else ""
    return [f"{size(memory['total'])}, {size(memory['available'])} available{limit}"]


def _speed(speed: dict) -> list[str]:
    rate = lambda name: f"{speed[name] / 1e9:,.0f}" if name in speed else "unknown"
    return [
        f"products {rate('float32')} GFLOP/s in float32, {rate('bfloat16')} in "
        f"bfloat16; reads {rate('read')} GB/s"
    ]


def _folders(folders: dict[str, dict]) -> list[str]:
    return [
        f"{name}: {folder['path']}, {size(folder['free'])} free"
        + ("" if folder["error"] is None else f", {folder['error']}")
        for name, folder in folders.items()
    ]


def _huge_pages(pages: dict) -> list[str]:
    return [f"{pages['mode']}, {pages['tunables'] or 'glibc asks for none'}"]


def _environment(environment: dict) -> list[str]:
    return [f"{key}={value}" for key, value in environment.items()] or ["nothing set"]


SHOWN = {
    "python": _python,
    "packages": _packages,
    "cards": _cards,
    "jax": _jax,
    "cpus": _cpus,
    "memory": _memory,
    "speed": _speed,
    "folders": _folders,
    "huge_pages": _huge_pages,
    "environment": _environment,
}


def size(count: float | None) -> str:
    """Bytes as a person reads them."""
    return "unknown" if count is None else f"{count / 2**30:,.1f} GiB"
