"""A Valkey that executes commands but may disconnect the client instead of replying."""

import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

_SCRIPT = b"$4\r\nEVAL\r\n"


class LossyProxy:
    """A proxy for a Valkey on a unix socket that can lose the replies of scripts."""

    def __init__(self, url: str, folder: Path) -> None:
        self._target = urlsplit(url).path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / "lossy.sock"))
        self._listening.listen()
        self.url = f"unix://{folder / 'lossy.sock'}"
        #: Scripts executed since the last call of `lose`, and replies lost.
        self.scripts = self.lost = 0
        self._number = self._times = 0
        self._luck, self._share = random.Random(0), 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, number: int, *, times: int = 1) -> None:
        """Lose the reply of the n-th script from now on, and of the next `times - 1`."""
        with self._lock:
            self.scripts = self.lost = 0
            self._number, self._times = number, times

    def lose_some(self, share: float, *, seed: int = 0) -> None:
        """Lose this share of the replies of all scripts from now on."""
        with self._lock:
            self._luck, self._share = random.Random(seed), share

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:  # the server is down
                    _cut(client, server)
                    continue
                asked = threading.Event()  # set while a script runs
                for work in (self._requests, self._replies):
                    threading.Thread(target=work, args=(client, server, asked), daemon=True).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, asked: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if _SCRIPT in data[:32]:
                    asked.set()
                server.sendall(data)
        _cut(client, server)

    def _replies(
        self, client: socket.socket, server: socket.socket, asked: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if asked.is_set() and self._loses():
                    break
                asked.clear()
                client.sendall(data)
        _cut(client, server)

    def _loses(self) -> bool:
        with self._lock:
            self.scripts += 1
            chosen = self._number <= self.scripts < self._number + self._times
            if not chosen and self._luck.random() >= self._share:
                return False
            self.lost += 1
            return True


def _cut(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def lossy(url: str) -> Iterator[LossyProxy]:
    with tempfile.TemporaryDirectory(prefix="gdsr-test-") as folder:
        proxy = LossyProxy(url, Path(folder))
        try:
            yield proxy
        finally:
            proxy.close()
