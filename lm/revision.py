"""Which code a process runs: the commit of its checkout, and what differs from it."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SECONDS = 10  # that a call of git may take
NAMES = 20  # of untracked files that are listed


class Revision(NamedTuple):
    """`commit`, or None and `why`; `patch` is `git diff HEAD`, empty where clean."""

    commit: str | None
    why: str | None = None
    patch: bytes = b""
    untracked: tuple[str, ...] = ()

    @property
    def patch_hash(self) -> str | None:
        """16 hex digits; None where nothing differs."""
        return hashlib.sha256(self.patch).hexdigest()[:16] if self.patch else None


@functools.cache
def revision() -> Revision:
    """The code that this process imported; read once, before files change."""
    return read(ROOT, "lm/revision.py")


def read(root: Path, tracked: str) -> Revision:
    """The revision of a checkout, if git is there and `tracked` is a file of it.

    A package that is installed below some other checkout is not of its commit.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", tracked)
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        patch = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
        others = _git(root, "ls-files", "--others", "--exclude-standard").decode()
    except FileNotFoundError:
        return Revision(None, "git is not installed")
    except subprocess.TimeoutExpired:
        return Revision(None, f"git took more than {SECONDS} s")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        return Revision(None, lines[0] if lines else f"git: exit {error.returncode}")
    return Revision(commit, None, patch, tuple(others.splitlines()[:NAMES]))


def _git(root: Path, *arguments: str) -> bytes:
    """What git prints; it asks nothing and takes no lock."""
    return subprocess.run(
        ["git", "-C", str(root), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=SECONDS,
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
    ).stdout
