"""The command line: one subcommand; a user's error is one line, exit 2."""

import os
import signal
import sys

from absl import flags

from lm.arguments import parse, usage
from lm.commands import COMMANDS
from lm.errors import ConfigError, nearest

EPILOGUE = """
`python run.py COMMAND --help` lists the flags of a command.

Exit codes:
  0   done
  1   programming error, with its traceback; doctor: something is wrong
  2   bad input, named in one line
  3   the run diverged
  4   some runs of a comparison failed
  75  preempted and saved: run the same command again
"""


def main(argv: list[str]) -> int:
    """Run one subcommand; -> exit code. A user's error is one line and 2."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # who read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _run(argv: list[str]) -> int:
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
            print(usage(name, COMMANDS[name]))
            return 0
        values, overrides = parse(name, COMMANDS[name], rest)
        return COMMANDS[name].call(values, overrides)
    except (ConfigError, flags.Error) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _help() -> str:
    """The list of commands, and of exit codes."""
    rows = [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: python run.py COMMAND [FLAGS]", "", *rows, EPILOGUE])
