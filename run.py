"""python run.py COMMAND [FLAGS]; `python run.py --help` lists the commands."""

import sys

from lm import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
