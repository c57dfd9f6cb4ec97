"""How the process takes memory from the system; imports no jax."""

import ctypes
import gc
import os
import sys
from pathlib import Path

TUNABLES, PRELOAD, DELAY = "GLIBC_TUNABLES", "LD_PRELOAD", "MIMALLOC_PURGE_DELAY"
LIBRARY = Path("cmeel.prefix/lib/libmimalloc.so")  # of the package cmeel-mimalloc


def keep_pages() -> None:
    """Starts the process again with an allocator that keeps what is freed for a while.

    A compiled program allocates its temporaries at each call, and glibc returns blocks
    of that size to the system after it, whose pages are zeroed at the next: up to a
    fifth of a training step on a CPU. mimalloc has them at hand for 40 seconds, four
    times its delay, and keeps them apart from small blocks. (mallopt keeps them too and
    splits the heap: it grows by all the temporaries every few steps.) Where its package
    is missing glibc takes huge pages, which are zeroed faster.

    Both are read from the environment at a process's start alone; child processes
    inherit it. Does nothing where the C library is another or the user has set its
    tunables, and preloads nothing where the user does.
    """
    if sys.platform != "linux" or TUNABLES in os.environ:
        return
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return
    os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
    library = mimalloc()
    if library and PRELOAD not in os.environ:
        os.environ[PRELOAD] = library
        os.environ.setdefault(DELAY, "10000")
    os.execv(sys.executable, sys.orig_argv)


def collect_seldom() -> None:
    """Looks for garbage cycles every 10,000 new objects, and not every 700.

    Imports and traces make millions of objects that stay, which Python visits again and
    again: an eighth of the time to the first loss.
    """
    gc.set_threshold(10_000, 20, 20)


def mimalloc() -> str | None:
    """Path of its library; None where it is not installed, or can't be preloaded."""
    for folder in sys.path:
        path = Path(folder).absolute() / LIBRARY
        # The loader takes both for the end of a path.
        if path.is_file() and not {" ", ":"} & set(str(path)):
            return str(path)
    return None
