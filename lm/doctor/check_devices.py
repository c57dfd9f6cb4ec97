"""Checks of GPUs and TPUs, and of how jax sees them; checks.py says what a check is."""

from collections.abc import Iterator

from lm.accelerators import KINDS
from lm.doctor.finding import Finding

# Oldest driver by CUDA's major version: docs.nvidia.com/deploy/cuda-compatibility,
# "Minor Version Compatibility".
DRIVERS = {"cuda12": 525, "cuda13": 580}


def no_plugin(cards: dict) -> Iterator[Finding]:
    """Devices that jax cannot reach, as what it needs for them is not installed."""
    for name, card in cards.items():
        if not card["present"] or card["plugins"]:
            continue
        install, driver = KINDS[name].install, _major(card["driver"])
        if name == "cuda" and driver is not None:
            fitting = [extra for extra, least in DRIVERS.items() if driver >= least]
            extra = fitting[-1] if fitting else "cuda12"
            install = f'make ACCEL={extra}, or pip install "jax[{extra}]"'
            if not fitting:
                install = f"a driver of {DRIVERS[extra]} or newer; then {install}"
        yield Finding(
            "wrong",
            f"{len(card['present'])} x {card['maker']}, and jax has no plugin for it: "
            "everything would run on the CPU",
            install,
        )


def old_driver(cards: dict) -> Iterator[Finding]:
    """NVIDIA's driver is older than the CUDA of the plugin."""
    card = cards["cuda"]
    driver = _major(card["driver"])
    for extra, least in DRIVERS.items():
        if (
            driver is None
            or driver >= least
            or f"jax_{extra}_plugin" not in card["plugins"]
        ):
            continue
        older = [e for e, bound in DRIVERS.items() if driver >= bound]
        fix = f"update the driver to {least} or newer"
        yield Finding(
            "wrong",
            f"NVIDIA's driver is {card['driver']}; {extra} needs {least} or newer",
            f"{fix}, or make ACCEL={older[-1]} in a new .venv" if older else fix,
        )


def _major(version: str | None) -> int | None:
    return int(version.split(".")[0]) if version else None


def not_started(jax: dict) -> Iterator[Finding]:
    """jax did not start, or was too slow to."""
    if jax["error"] and jax["backend"] is None:
        yield Finding(
            "wrong",
            f"jax does not start: {jax['error']}",
            "end what else holds the device (listed here if it may be seen), then "
            "python -m lm.doctor.probe shows all of the error",
        )


def not_used(cards: dict, environment: dict, jax: dict) -> Iterator[Finding]:
    """Devices that are present, visible and have a plugin, and jax is on the CPU."""
    if jax["backend"] != "cpu" or _first_platform(environment) == "cpu":
        return
    for card in cards.values():
        if card["visible"] and card["plugins"]:
            yield Finding(
                "wrong",
                f"{len(card['visible'])} x {card['maker']} with {card['plugins'][0]}, "
                "and jax sees only the CPU",
                "JAX_PLATFORMS=cuda (rocm, tpu) python -m lm.doctor.probe says why; "
                "often it is the driver, LD_LIBRARY_PATH, or a device held by another "
                "process",
            )


def hidden(cards: dict, environment: dict) -> Iterator[Finding]:
    """Devices that a variable keeps from jax."""
    first = _first_platform(environment)
    for name, card in cards.items():
        if not card["present"]:
            continue
        if not card["visible"]:
            variable = next(v for v in KINDS[name].variables if v in environment)
            yield Finding(
                "note",
                f"{variable}={environment[variable]!r} hides all of {card['maker']}",
                f"unset {variable}, or name devices: {','.join(card['present'])}",
            )
        elif first and first not in KINDS[name].platforms:
            yield Finding(
                "note",
                f"JAX_PLATFORMS={environment['JAX_PLATFORMS']} keeps jax from "
                f"{len(card['visible'])} x {card['maker']}",
                "unset JAX_PLATFORMS",
            )


def named_twice(cards: dict, environment: dict) -> Iterator[Finding]:
    """A device is listed more than once: a mistake of whoever wrote the list."""
    for name, card in cards.items():
        for variable in KINDS[name].variables:
            words = environment.get(variable, "").split(",")
            if card["present"] and len(set(words)) < len(words):
                yield Finding(
                    "wrong",
                    f"{variable}={environment[variable]} names a device twice",
                    f"export {variable}={','.join(dict.fromkeys(words))}",
                )


def no_such_platform(cards: dict, environment: dict) -> Iterator[Finding]:
    """JAX_PLATFORMS asks for what is not installed: jax would refuse to start."""
    for word in filter(None, environment.get("JAX_PLATFORMS", "").split(",")):
        kinds = [name for name, kind in KINDS.items() if word in kind.platforms]
        if kinds and not any(cards[name]["plugins"] for name in kinds):
            yield Finding(
                "wrong",
                f"JAX_PLATFORMS={environment['JAX_PLATFORMS']}, and jax has no plugin "
                f"for {word}",
                f"unset JAX_PLATFORMS, or {KINDS[kinds[0]].install}",
            )


def _first_platform(environment: dict) -> str:
    return environment.get("JAX_PLATFORMS", "").split(",")[0]


def shadowed(libraries: dict, cards: dict) -> Iterator[Finding]:
    """LD_LIBRARY_PATH puts other CUDA libraries before those that pip installed."""
    if cards["cuda"]["plugins"] and libraries["pip"] and libraries["shadows"]:
        yield Finding(
            "wrong",
            f"LD_LIBRARY_PATH has CUDA libraries ({libraries['shadows'][0]}), which "
            "come before those that pip installed for jax",
            "unset LD_LIBRARY_PATH (docs.jax.dev, installation)",
        )


def held(holders: list, cards: dict) -> Iterator[Finding]:
    """Another process is at work on a device."""
    why = {
        "cuda": "jax takes most of a GPU's memory at its start, and two share its time",
        "tpu": "a TPU chip belongs to one process",
    }
    for holder in holders:
        if cards[holder["kind"]]["present"]:
            yield Finding(
                "wrong",
                f"process {holder['pid']} ({holder['command']}) is on a device: "
                f"{why[holder['kind']]}",
                "wait for it or end it, or take another device with "
                f"{KINDS[holder['kind']].variables[0]}",
            )


def allocation(cards: dict, environment: dict) -> Iterator[Finding]:
    """GPU memory is not taken at the start, as jax does by default."""
    if not (cards["cuda"]["present"] or cards["rocm"]["present"]):
        return
    off = environment.get("XLA_PYTHON_CLIENT_PREALLOCATE", "").lower() in ("false", "0")
    if off:
        yield Finding(
            "note",
            "XLA_PYTHON_CLIENT_PREALLOCATE is off: memory splits into pieces, and a "
            "run that needs most of it may fail late",
            "unset XLA_PYTHON_CLIENT_PREALLOCATE unless processes share the device",
        )
    if environment.get("XLA_PYTHON_CLIENT_ALLOCATOR") == "platform":
        yield Finding(
            "note",
            "XLA_PYTHON_CLIENT_ALLOCATOR=platform allocates at every call: very slow",
            "unset XLA_PYTHON_CLIENT_ALLOCATOR",
        )
