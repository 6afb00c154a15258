"""An engine that hangs is killed, so that its supervisor starts another.

One that is dead is seen at once. One that was stopped, or whose interpreter is stuck, still has its
socket: the kernel takes connections for it, and nobody greets them. One whose network hangs greets:
its own thread looks at the batch under way.
"""

import logging
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from workers.host.supervisor import EXIT_DEVICE

#: How often engines are looked at, and how long one may take to greet.
PAUSE, PATIENCE = timedelta(seconds=10), timedelta(seconds=30)
#: How many times as long as measured a batch may take, and how long in any case.
_FACTOR, _LEAST = 10, timedelta(seconds=60)

log = logging.getLogger(__name__)


def kill_unresponsive(path: Path, *, patience: timedelta = PATIENCE) -> bool:
    """Kill the engine that listens on this socket and does not greet; whether there was one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(patience.total_seconds())
        try:
            probe.connect(str(path))
            if probe.recv(1):
                return False
        except TimeoutError:
            pass
        except OSError:
            return False  # it is not there, or ends at this moment
        else:
            return False
        pid, _, _ = struct.unpack(
            "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
    log.critical("the engine with pid %d does not answer and is killed", pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def watch_engines(paths: Sequence[Path]) -> None:
    """Look at the engines of this host for ever, each in a thread of its own."""

    def watch(path: Path) -> None:
        while True:
            time.sleep(PAUSE.total_seconds())
            kill_unresponsive(path)

    for path in paths:
        threading.Thread(target=watch, args=(path,), name="engine-watch", daemon=True).start()


def longest(expected: float) -> float:
    """Seconds that a batch may take of which so many were expected."""
    return max(_LEAST.total_seconds(), _FACTOR * expected)


def exit_when_stuck(
    overdue: Callable[[], bool], stopped: threading.Event, *, pause: timedelta = PAUSE / 2
) -> None:
    """End this process when a batch is overdue at two looks; run in a thread of its own."""
    looks = 0
    while not stopped.wait(pause.total_seconds()):
        looks = looks + 1 if overdue() else 0
        if looks == 2:  # at one it may have been this process that was stopped meanwhile
            log.critical("a batch does not end: the engine does")
            os._exit(EXIT_DEVICE)
