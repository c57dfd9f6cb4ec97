"""The command line: one function a subcommand, and one line for every error of a user."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from lm.errors import ConfigError, nearest

EPILOGUE = """
`python run.py COMMAND --help` lists the flags of a command.

Exit codes:
  0   done
  1   programming error, with its traceback
  2   bad input, named in one line
  3   the run diverged
  4   some runs of a comparison failed
  75  preempted and saved: run the same command again
"""


class Flag(NamedTuple):
    """`kind` is a type, a tuple of names of which one or, as a list, several hold."""

    name: str
    default: object
    help: str
    kind: object = str


class Command(NamedTuple):
    """`call(values, overrides)` returns an exit code; `positional` names an argument."""

    call: Callable[[dict, dict], int]
    help: str
    flags: tuple[Flag, ...]
    positional: str | None = None
    config: bool = False


def main(argv: list[str]) -> int:
    """Run one subcommand; -> exit code. A user's error is one line and 2."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_help(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        name, *rest = argv
        if name not in COMMANDS:
            near = nearest(name, COMMANDS)
            hint = f"did you mean {near}? " if near else ""
            raise ConfigError(f"{name} is no command; {hint}See run.py --help")
        if "--help" in rest or "-h" in rest:
            print(_command_help(name))
            return 0
        values, overrides = _parse(name, rest)
        return COMMANDS[name].call(values, overrides)
    except (ConfigError, flags.Error) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _parse(name: str, argv: list[str]) -> tuple[dict, dict]:
    """({flag: value}, {config key: text}) of a command's arguments, in any order."""
    command = COMMANDS[name]
    overrides, rest = {}, [name]
    words = iter(argv)
    for word in words:
        if not word.startswith("--config.") or not command.config:
            rest.append(word)
            continue
        key, equals, text = word.removeprefix("--config.").partition("=")
        overrides[key] = text if equals else next(words, None)
        if overrides[key] is None:
            raise ConfigError(
                f"--config.{key} has no value; write --config.{key}=VALUE"
            )
    if not command.config and any(w.startswith("--config") for w in rest):
        raise ConfigError(f"{name} takes no --config: it reads what the run wrote")
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for flag in command.flags:
        _define(flag, values)
    _, *positional = values(rest)
    if len(positional) != (command.positional is not None):
        wanted = command.positional or "no argument without a flag"
        raise ConfigError(
            f"{name} takes {wanted}, not {' '.join(positional) or 'none'}"
        )
    found = {flag.name: values[flag.name].value for flag in command.flags}
    return found | {"positional": positional}, overrides


def _define(flag: Flag, values: flags.FlagValues) -> None:
    """Define one absl flag in `values`."""
    common = dict(flag_values=values)
    if flag.kind is bool:
        flags.DEFINE_bool(flag.name, flag.default, flag.help, **common)
    elif flag.kind is int:
        flags.DEFINE_integer(flag.name, flag.default, flag.help, **common)
    elif flag.kind is float:
        flags.DEFINE_float(flag.name, flag.default, flag.help, **common)
    elif flag.kind is list:
        flags.DEFINE_multi_string(flag.name, flag.default, flag.help, **common)
    else:
        flags.DEFINE_string(flag.name, flag.default, flag.help, **common)


def _help() -> str:
    """The list of commands, and of exit codes."""
    rows = [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: python run.py COMMAND [FLAGS]", "", *rows, EPILOGUE])


def _command_help(name: str) -> str:
    """The usage and flags of one command."""
    command = COMMANDS[name]
    argument = f" {command.positional}" if command.positional else ""
    rows = [f"usage: python run.py {name}{argument} [FLAGS]", "", command.help, ""]
    for flag in command.flags:
        default = "" if flag.default is None else f" (default {flag.default!r})"
        rows.append(f"  --{flag.name:13}{flag.help}{default}")
    if command.config:
        rows.append(
            "  --config.KEY=VALUE sets any key of configs/base.py or of a mixer"
        )
    return "\n".join(rows)
