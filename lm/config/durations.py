"""Durations: texts with a unit, resolved once to steps."""

import re
from typing import Any, NamedTuple

from lm.errors import ConfigError


class Durations(NamedTuple):
    """Lengths of one training run, in steps (optimiser updates)."""

    steps: int
    warmup: int
    decay: int
    polyak_start: int
    eval_every: int
    checkpoint_every: int
    log_every: int


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kMB]?) ?(steps?|tokens?|epochs?|%|)")
_SCALE = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _parse(key: str, text: str) -> tuple[float, str]:
    """(amount, unit) of a duration; the unit is "step", "token", "epoch" or "%"."""
    match = _DURATION.fullmatch(text.strip())
    if not match or (match[3] == "%" and (match[2] or float(match[1]) > 100)):
        raise ConfigError(
            f"{key}={text!r} is not a duration; write '400 steps', '8M tokens', "
            "'1.5k steps', '2 epochs' or '5%' (of training)"
        )
    amount, unit = float(match[1]) * _SCALE[match[2]], match[3].rstrip("s") or "step"
    if unit == "step" and amount != int(amount):
        raise ConfigError(f"{key}={text!r} must be a whole number of steps")
    return amount, unit


def durations(
    values: dict[str, Any], steps_per_epoch: int | None = None
) -> Durations | None:
    """Every duration in steps; None if one counts epochs and their length is unknown.

    `values` has dotted keys. A percentage is of training. Intervals are at least 1.
    """
    tokens = values["train.batch_tokens"]

    def steps(key: str, total: int | None) -> int | None:
        amount, unit = _parse(key, values[key])
        whole = {"step": 1, "token": 1 / tokens, "epoch": steps_per_epoch}
        whole["%"] = None if total is None else total / 100
        return None if whole[unit] is None else round(amount * whole[unit])

    duration, warmup = values["train.duration"], values["optim.warmup"]
    if _parse("train.duration", duration)[1] == "%":
        raise ConfigError(
            f"train.duration={duration!r} has nothing to be a percentage of; "
            "write '400 steps', '8M tokens' or '2 epochs'"
        )
    total = steps("train.duration", None)
    if total == 0:
        raise ConfigError(
            f"train.duration={duration!r} is not one step of train.batch_tokens="
            f"{tokens}; train longer"
        )
    warm = steps("optim.warmup", total)
    if warm and total and warm >= total:
        raise ConfigError(
            f"optim.warmup={warmup!r} is {warm} steps, and train.duration={duration!r} "
            f"is {total}; shorten the warm-up"
        )
    decay = steps("optim.decay", total)
    known = None not in (total, warm, decay)
    if known and values["optim.schedule"] == "wsd" and warm + decay > total:
        raise ConfigError(
            f"optim.decay={values['optim.decay']!r} is {decay} steps, which with the "
            f"{warm} of optim.warmup={warmup!r} are more than the {total} of "
            f"train.duration={duration!r}; shorten it"
        )
    polyak = steps("train.polyak_start", total)
    average = values["train.average"]
    if average == "polyak" and None not in (total, polyak) and polyak >= total:
        raise ConfigError(
            f"train.polyak_start={values['train.polyak_start']!r} is {polyak} steps, "
            f"and train.duration={duration!r} is {total}: nothing would be averaged"
        )
    found = [total, warm, decay, polyak]
    for key in ("eval.every", "run.checkpoint_every", "run.log_every"):
        if _parse(key, values[key])[0] == 0:
            raise ConfigError(
                f"{key}={values[key]!r} must be above 0; '100%' is once, at the end"
            )
        every = steps(key, total)
        found.append(every if every is None else max(1, every))
    return None if None in found else Durations(*found)
