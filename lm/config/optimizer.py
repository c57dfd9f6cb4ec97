"""What the optimiser of a config rules out among its other keys."""

from typing import Any

from lm.errors import ConfigError


def check_optimizer(values: dict[str, Any]) -> None:
    """Raise where optim.name contradicts another key; keys are dotted."""
    if values["optim.name"] != "schedule_free":
        return
    if values["train.average"] != "none":
        raise ConfigError(
            f"train.average={values['train.average']!r}: optim.name='schedule_free' is "
            "evaluated at an average of its own; add --config.train.average=none"
        )
    schedule = values["optim.schedule"]
    if schedule != "constant":
        raise ConfigError(
            f"optim.schedule={schedule!r}: optim.name='schedule_free' averages in the "
            "place of a schedule; add --config.optim.schedule=constant"
        )
    if values["optim.b1"] == 0:
        raise ConfigError(
            "optim.b1=0.0: with optim.name='schedule_free' its average could not be "
            "found again; take 0.9"
        )
