"""Real processes for tests: an embedded Valkey, and waiting for an event with a deadline."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from deploy.valkey import valkey_answers, valkey_command
from workers.lifeline import dying_with_parent

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], *, seconds: float = 30, what: str = "") -> Found:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not seen within {seconds} s: {what or look}")


class ValkeyServer:
    """A Valkey on a unix socket that can be killed and started again on the same data."""

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
        wait_for(lambda: valkey_answers(self.socket), seconds=10, what="Valkey")

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
