"""Runs an engine's server in this process, on a real socket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.engine.loading import LoadedEngine
from workers.engine.server import EngineServer


@contextmanager
def serving(loaded: LoadedEngine, path: Path) -> Iterator[EngineServer]:
    server = EngineServer(loaded, path=path)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()
