"""python run.py COMMAND [FLAGS]; `python run.py --help` lists the commands."""

import sys

from lm.memory import collect_seldom, keep_pages

collect_seldom()  # in workers too: they import this file
if __name__ == "__main__":
    keep_pages()
    from lm import cli

    sys.exit(cli.main(sys.argv[1:]))
