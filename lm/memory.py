"""How the process takes memory from the system; imports no jax."""

import ctypes
import os
import sys

TUNABLES = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
    """Starts the process again with glibc's large blocks in huge pages, if it has none.

    A compiled program allocates its temporaries at each call, in blocks that the system
    takes back after it: to zero them in small pages is a fifth of a training step on a
    CPU. (To keep them by mallopt is as fast, but splits the heap: it grows by all the
    temporaries every few steps.) glibc reads this from the environment, which child
    processes inherit, at its start alone. Does nothing where the C library is another
    or the user has set its tunables.
    """
    if sys.platform != "linux" or TUNABLES in os.environ:
        return
    if hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
