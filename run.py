"""python run.py COMMAND [FLAGS]; `python run.py --help` lists the commands."""

import sys

from lm.memory import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()
    from lm import cli

    sys.exit(cli.main(sys.argv[1:]))
