"""Parent-death signal: a child process ends with its parent, even a killed one (Linux only)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Resolved before any fork: a child of a threaded process may not import.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def dying_with_parent(
    signum: signal.Signals = signal.SIGKILL, *, parent: int | None = None
) -> Callable[[], None]:
    """Return a function that a child calls first: the kernel then sends it `signum` when the
    thread that forked it ends.

    Call this in the parent, or in the child with the parent's pid.
    """
    parent = os.getpid() if parent is None else parent

    def die_with_parent() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signum)
            if os.getppid() != parent:  # the parent ended before the call
                os._exit(1)

    return die_with_parent
