"""What is wrong with a machine: each check reads sections of the record that it names.

A check is a function of the sections that its parameters are called after; it yields
findings. One whose sections are unknown is not asked: the unknown itself is told.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from lm.doctor import check_devices, check_host
from lm.doctor.finding import Finding

Check = Callable[..., Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_devices.not_started,
    check_devices.no_plugin,
    check_devices.old_driver,
    check_devices.not_used,
    check_devices.no_such_platform,
    check_devices.named_twice,
    check_devices.shadowed,
    check_devices.held,
    check_host.other_packages,
    check_host.throttled,
    check_host.no_room,
    check_host.not_kept,
    check_devices.hidden,
    check_devices.allocation,
    check_host.simulated,
    check_host.other_bits,
    check_host.small_pages,
)


def judge(record: dict[str, Any]) -> list[Finding]:
    """All findings, what is wrong first."""
    found: list[Finding] = []
    for check in CHECKS:
        sections = {name: record[name] for name in inspect.signature(check).parameters}
        if not any(map(unknown, sections.values())):
            found += check(**sections)
    return sorted(found, key=lambda finding: finding.level != "wrong")


def unknown(section: Any) -> str | None:
    """Why a section could not be read, or None."""
    return section.get("unknown") if isinstance(section, dict) else None
