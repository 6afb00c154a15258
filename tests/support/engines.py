"""Runs an engine's server in this process, on a real socket, and makes tiles for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from factories import Pixels

from workers.engine.loading import LoadedEngine
from workers.engine.server import EngineServer

TILE = 64


def tiles(count: int = 3) -> list[Pixels]:
    """Return tiles of noise."""
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (count, TILE, TILE, 3), dtype=np.uint8))


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
