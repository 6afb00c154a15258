"""Kills engines that hang, so that the supervisor restarts them.

A dead engine is noticed at once. A stopped process, or one with a blocked interpreter, still has
its socket: the kernel accepts connections, but there is no greeting. An engine whose network hangs
still greets: a thread of its own checks the current batch.
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

#: Interval of the checks, and timeout of a greeting.
PAUSE, PATIENCE = timedelta(seconds=10), timedelta(seconds=30)
#: Time limit of a batch: a multiple of its measured time, and a minimum.
_FACTOR, _MIN_LIMIT = 10, timedelta(seconds=60)

log = logging.getLogger(__name__)


def kill_unresponsive(path: Path, *, patience: timedelta = PATIENCE) -> bool:
    """Kill the engine that listens on this socket unless it greets; True if it was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(patience.total_seconds())
        try:
            probe.connect(str(path))
            probe.recv(1)
            return False
        except TimeoutError:
            pass
        except OSError:
            return False  # not started yet, or just ended
        pid, _, _ = struct.unpack(
            "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
    log.critical("killing the engine with pid %d: it does not respond", pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def watch_engines(paths: Sequence[Path]) -> None:
    """Check the engines of this host forever, each in its own thread."""

    def watch(path: Path) -> None:
        while True:
            time.sleep(PAUSE.total_seconds())
            try:
                kill_unresponsive(path)
            except Exception:  # such as no file descriptor left
                log.exception("cannot check the engine at %s, retrying", path)

    for path in paths:
        threading.Thread(target=watch, args=(path,), name="engine-watch", daemon=True).start()


def batch_time_limit(expected: float) -> float:
    """Time limit, in seconds, of a batch with this expected duration."""
    return max(_MIN_LIMIT.total_seconds(), _FACTOR * expected)


def seconds_starved() -> float:
    """Seconds that the threads of this process have been ready but without a processor.

    From /proc/self/task/*/schedstat (Linux, Documentation/scheduler/sched-stats.rst); 0 where the
    kernel does not count them.
    """
    waited = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError, ValueError, IndexError):  # the thread has ended, or no such file
            waited += int((task / "schedstat").read_text().split()[1])
    return waited / 1e9


def exit_when_stuck(
    overdue: Callable[[], bool], stopped: threading.Event, *, pause: timedelta = PAUSE / 2
) -> None:
    """Exit this process when a batch is overdue at two checks; runs in its own thread."""
    overdue_checks = 0
    while not stopped.wait(pause.total_seconds()):
        try:
            overdue_checks = overdue_checks + 1 if overdue() else 0
        except Exception:
            log.exception("cannot check for a stuck batch, retrying")
        if overdue_checks == 2:  # after one check this process may just have been suspended
            log.critical("a batch is stuck: exiting")
            os._exit(EXIT_DEVICE)
