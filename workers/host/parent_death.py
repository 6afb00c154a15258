"""A child that ends with its parent, however the parent ends (Linux; elsewhere it does nothing)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a child of a threaded process may not import.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def dying_with_parent(
    signum: signal.Signals = signal.SIGKILL, *, parent: int | None = None
) -> Callable[[], None]:
    """For a child to call first: the kernel sends it `signum` when the thread that forked ends.

    Called in the parent, or in the child with the parent's pid.
    """
    parent = os.getpid() if parent is None else parent

    def die_with_parent() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signum)
            if os.getppid() != parent:  # it ended before the call
                os._exit(1)

    return die_with_parent
