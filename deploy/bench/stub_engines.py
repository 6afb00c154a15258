"""Engines without a network, for measurements of everything around them.

    python -m deploy.bench.stub_engines --seconds 1 SOCKET [SOCKET ...]

Each serves the engine's protocol and needs the given time for a tile, without using a processor.
"""

import argparse
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from model.gdsr import OUTPUTS, SCALE
from workers.contract.observability import logs
from workers.contract.queue import engines
from workers.contract.queue.connection import connect
from workers.contract.settings import WorkerSettings
from workers.engine.loading import LoadedEngine
from workers.engine.model_cache import ModelCache
from workers.engine.server import EngineServer
from workers.tiles.tiling import Pixels

MODEL = "stub"
_TILES = (160, 288)


class _StubNetwork:
    """Stand-in for a model: repeats the pixels of a tile, after some time."""

    forward = replaced = True

    def __init__(self, info: engines.ModelInfo, seconds: float) -> None:
        self.info, self._seconds = info, seconds

    def ready(self) -> "_StubNetwork":
        return self

    def release(self) -> None:
        """Nothing is cached."""

    def start(
        self,
        tiles: Pixels,
        weights: NDArray[np.float32],
        *,
        consistent: bool,  # noqa: ARG002 - a property of networks
    ) -> Callable[[], Pixels]:
        """(N, T, T, 3), (N, R, 4) -> (N, R, 4T, 4T, 3)."""
        time.sleep(self._seconds * len(tiles))
        large = tiles.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        return lambda: large[:, None].repeat(weights.shape[1], axis=1)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.stub_engines")
    parser.add_argument("--seconds", type=float, required=True, help="for each tile")
    parser.add_argument("sockets", type=Path, nargs="+", metavar="SOCKET")
    arguments = parser.parse_args()
    settings = WorkerSettings.load()
    logs.configure(process="stub engines", level=settings.log_level)
    model = engines.ModelInfo(
        name=MODEL, sha256="0" * 64, preset="lite", scale=SCALE, card={}, precision="float32",
        pixels_per_second=dict.fromkeys(OUTPUTS, max(_TILES) ** 2 / arguments.seconds),
    )  # fmt: skip
    loaded = LoadedEngine(
        forwards=cast("dict[str, Any]", {MODEL: _StubNetwork(model, arguments.seconds)}),
        model_cache=ModelCache(1),
        default_model=MODEL,
        device_name="stub",
        batches=dict.fromkeys(_TILES, 1),
    )
    for path in arguments.sockets:
        server = EngineServer(loaded, path=path)
        threading.Thread(target=server.serve, daemon=True).start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    client = connect(settings.redis_url, timeout=engines.HEARTBEAT, retries=3)
    while True:
        for path in arguments.sockets:
            info = engines.EngineInfo(
                id=path.stem, host=socket.gethostname(), device=loaded.device_name,
                tile=max(_TILES), default_model=MODEL, models=loaded.models,
            )  # fmt: skip
            engines.register(client, info)
        if ended.wait(engines.HEARTBEAT.total_seconds()):
            return


if __name__ == "__main__":
    main()
