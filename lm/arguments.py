"""Flags of one subcommand, parsed by absl, with config overrides in any order."""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from lm.errors import ConfigError

DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    list: flags.DEFINE_multi_string,
}


class Flag(NamedTuple):
    """A flag of the type `kind`; list: a text that may be given several times."""

    name: str
    default: object
    help: str
    kind: type = str


class Command(NamedTuple):
    """A subcommand; `call(values, overrides)` returns the exit code.

    positional: the name of the one argument that is no flag, None where it may be left
    out and is; config: whether --config.KEY=VALUE is allowed.
    """

    call: Callable[[dict, dict], int]
    help: str
    flags: tuple[Flag, ...]
    positional: str | None = None
    config: bool = False
    optional: bool = False


def parse(name: str, command: Command, argv: list[str]) -> tuple[dict, dict]:
    """({flag: value}, {config key: text}) of a command's arguments, in any order."""
    values = flags.FlagValues()
    for flag in command.flags:
        DEFINE[flag.kind](flag.name, flag.default, flag.help, flag_values=values)
    overrides, rest = {}, [name]
    words = iter(argv)
    for word in words:
        if not word.startswith("--config"):
            rest.append(word)
        elif not command.config:
            raise ConfigError(
                f"{name} takes no --config; only train, count and bench do"
            )
        elif not word.startswith("--config."):
            rest.append(word)
        else:
            word, equals, text = word.partition("=")
            text = text if equals else next(words, "--")
            if text.startswith("--"):
                raise ConfigError(f"{word} has no value; write {word}=VALUE")
            overrides[word.removeprefix("--config.")] = text
    _, *positional = values(rest)
    wanted = [command.positional] if command.positional else []
    if not positional and command.optional:
        positional = [None]
    if len(positional) != len(wanted):
        found = " ".join(positional) or "nothing"
        raise ConfigError(f"{name} takes {' '.join(wanted) or 'flags'}, not {found}")
    found = {flag.name: values[flag.name].value for flag in command.flags}
    return found | dict(zip(wanted, positional, strict=True)), overrides


def usage(name: str, command: Command) -> str:
    """The help of one command."""
    argument = f" {command.positional}" if command.positional else ""
    rows = [f"usage: python run.py {name}{argument} [FLAGS]", "", command.help, ""]
    for flag in command.flags:
        default = "" if flag.default in (None, []) else f" (default {flag.default!r})"
        rows.append(f"  --{flag.name:18}{flag.help}{default}")
    if command.config:
        rows.append(
            "  --config.KEY=VALUE sets any key of configs/base.py or of a mixer"
        )
    return "\n".join(rows)


def steps(text: str | None) -> range:
    """The updates of --profile=START:STOP; none of None."""
    if text is None:
        return range(0)
    start, _, stop = text.partition(":")
    good = all(n.isascii() and n.isdigit() for n in (start, stop))
    if not (good and int(start) < int(stop)):
        raise ConfigError(
            f"--profile={text} must be START:STOP, two numbers of updates, START below "
            "STOP, as in 20:25"
        )
    return range(int(start), int(stop))
