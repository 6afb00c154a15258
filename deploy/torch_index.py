"""Prints the package index for PyTorch, for `deploy/setup`; needs no installed packages.

The index is GDSR_TORCH_INDEX if set. Otherwise, on a machine without an NVIDIA GPU, it is that of
PyTorch's CPU builds, if it answers: they are a tenth of the size of the CUDA builds. Nothing is
printed for the default index.
"""

import http.client
import os
import signal
import sys
import urllib.request
from pathlib import Path

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: Device files of the NVIDIA driver, on Linux and in the Windows Subsystem for Linux.
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")
_TIMEOUT_SECONDS = 5.0


def torch_index() -> str:
    """The address of the index; empty: the default index."""
    named = os.environ.get("GDSR_TORCH_INDEX", "")
    if named or any(Path(file).exists() for file in _GPU_FILES):
        return named
    return _CPU_INDEX if answers(f"{_CPU_INDEX}/torch/", seconds=_TIMEOUT_SECONDS) else ""


def answers(url: str, *, seconds: float) -> bool:
    """True if a page answers within this time, DNS look-up included.

    Call it only in the main thread of a process that uses no other alarm.
    """
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with urllib.request.urlopen(url):  # noqa: S310 - the addresses are ours
            return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up(signum: int, frame: object) -> None:  # noqa: ARG001
    raise TimeoutError


if __name__ == "__main__":
    sys.stdout.write(torch_index())
