"""An embedded Valkey, free ports, suspended processes, and waiting for an event with a deadline."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from deploy.valkey import valkey_answers, valkey_command
from workers.host.parent_death import dying_with_parent

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], *, seconds: float = 240, what: str = "") -> Found:
    """Poll until `look` returns something; the deadline allows for a busy machine, and is below
    that of a test.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not seen within {seconds} s: {what or look}")


class ValkeyServer:
    """A Valkey on a unix socket that can be killed and restarted on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = Path(tempfile.mkdtemp(prefix="gdsr-test-"))
        self.socket = self.runtime / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            valkey_command(self.folder, self.socket),
            stdin=subprocess.DEVNULL,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )
        wait_for(lambda: valkey_answers(self.socket), what="Valkey")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.runtime, ignore_errors=True)


@contextmanager
def running_valkey(folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(folder)
    try:
        yield server
    finally:
        server.close()


def children(pid: int) -> list[int]:
    """Return the running children of a process, whichever thread started them."""
    listed: list[str] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            listed += file.read_text().split()
    return [int(child) for child in listed if alive(int(child))]


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def suspend(pid: int) -> None:
    """Suspend a process; return when it has stopped, which the signal alone does not wait for."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid) in {"T", "Z", "X"}, what="a process that has stopped")


@contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """Suspend processes during the block. Those that have ended meanwhile are left out."""
    try:
        for pid in pids:
            suspend(pid)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def command_line(pid: int) -> str:
    """Return the command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """True if a process runs; a zombie does not."""
    return state_of(pid) not in {"Z", "X"}


def state_of(pid: int) -> str:
    """Return the letter of a process's state, see proc(5); X when it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return status.rpartition(")")[2].split()[0]


#: Below the kernel's ephemeral ports, so that nothing takes a port between the look and the use.
#: Concurrent test processes, whose ids are near each other, start far apart.
_FIRST, _LAST = 10_000, 32_000
_OURS = _FIRST + 1009 * os.getpid() % (_LAST - _FIRST)
_PORTS = itertools.chain(range(_OURS, _LAST), range(_FIRST, _OURS))


def free_port() -> int:
    """Return a TCP port that is free and stays free; another one each time."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports."""
    found = [free_port()]
    while len(found) < count:
        port = free_port()
        found = [*found, port] if port == found[-1] + 1 else [port]
    return found[0]
