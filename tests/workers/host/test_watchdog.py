"""A hanging engine is killed; a responding one is left alone."""

import errno
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from processes import suspend, wait_for

from workers.host.health import is_listening
from workers.host.supervisor import EXIT_DEVICE
from workers.host.watchdog import batch_time_limit, exit_when_stuck, kill_unresponsive

LISTENS = """
import contextlib, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen(8)
while True:
    connection, _ = listener.accept()
    with contextlib.suppress(BrokenPipeError):  # the other side may have left
        connection.send(b"{}")
"""
HANGS = """
import threading
from datetime import timedelta
from workers.host.watchdog import exit_when_stuck
exit_when_stuck(lambda: True, threading.Event(), pause=timedelta(seconds=0.05))
"""

STARVES = """
import os, signal
from workers.host.watchdog import seconds_starved
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
other = os.fork()
if not other:
    signal.alarm(60)  # ends it at the latest
    while True:
        pass
before = seconds_starved()
while seconds_starved() < before + 0.5:
    pass
os.kill(other, signal.SIGKILL)
"""


@contextmanager
def engine(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that greets clients as an engine does."""
    with subprocess.Popen([sys.executable, "-c", LISTENS, str(path)]) as process:
        try:
            wait_for(lambda: path.exists() and is_listening(path), what="a socket")
            yield process
        finally:
            process.kill()


def test_an_engine_that_is_stopped_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with engine(path) as process:
        suspend(process.pid)

        assert kill_unresponsive(path, patience=timedelta(seconds=0.5))
        assert process.wait() == -signal.SIGKILL


def test_an_engine_that_answers_the_watchdog_is_not_killed(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with engine(path) as process:
        assert not kill_unresponsive(path)
        assert process.poll() is None


def test_a_missing_engine_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    assert not kill_unresponsive(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(str(path))
    assert not kill_unresponsive(path)


def test_an_engine_whose_batch_does_not_end_ends_itself() -> None:
    assert subprocess.run([sys.executable, "-c", HANGS], check=False).returncode == EXIT_DEVICE
    assert batch_time_limit(1) == 60
    assert batch_time_limit(20) == 200


def test_a_check_that_fails_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    stopped, looks = threading.Event(), 0

    def fails() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            stopped.set()
        raise OSError(errno.EMFILE, "Too many open files")

    exit_when_stuck(fails, stopped, pause=timedelta(0))

    assert looks == 2
    assert caplog.text.count("cannot check for a stuck batch") == 2


def test_time_without_a_processor_is_known() -> None:
    """Another process on the same processor makes this one wait, as on a busy machine."""
    done = subprocess.run([sys.executable, "-c", STARVES], check=False, timeout=120)

    assert done.returncode == 0


def test_an_engine_that_is_to_end_is_not_looked_at() -> None:
    stopped = threading.Event()
    stopped.set()
    exit_when_stuck(lambda: True, stopped)
