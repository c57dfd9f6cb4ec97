"""python run.py COMMAND [FLAGS]; `python run.py --help` lists the commands."""

import sys

from lm.memory import keep_pages

if __name__ == "__main__":
    keep_pages()
    from lm import cli

    sys.exit(cli.main(sys.argv[1:]))
