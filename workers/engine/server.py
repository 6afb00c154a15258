"""The engine's server: fair scheduling of tiles from all connected jobs, in shared batches.

One thread reads the sockets; the thread that calls `serve` computes. A job is one connection. A
batch starts with the next job in turn and is filled round-robin, one tile per job, from jobs with
the same model and outputs: a small picture never waits for a huge one, and many small pictures
share a batch.
"""

import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.inference.forward import NotFinite
from workers.contract import errors
from workers.contract.queue.queue import FLOAT32_FACTOR
from workers.engine.loading import LoadedEngine
from workers.engine.out_of_memory import OutOfMemoryFallback
from workers.engine.protocol import (
    MAX_RESULTS,
    Layout,
    ProtocolError,
    SharedTiles,
    open_shared_tiles,
    receive,
    send,
)
from workers.host.watchdog import batch_time_limit, seconds_starved
from workers.tiles.trade_off import Weights

#: Timeout of a client that does not read its answers.
_SEND_SECONDS = 5

Found = TypeVar("Found")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Client:
    """One connected job."""

    connection: socket.socket
    loaded: LoadedEngine
    """The models at the time of its greeting, which it keeps after reloads."""
    model: str = ""
    weights: tuple[tuple[float, ...], ...] = ()
    tile: int = 0
    bits: int = 8
    consistent: bool = False
    alone: bool = False
    shared: SharedTiles | None = None
    waiting: deque[int] = field(default_factory=deque)
    tiles: int = 0
    about: dict[str, str | None] = field(default_factory=dict)
    """Job and trace ids, for logs."""

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Tiles of clients with equal keys can share a batch."""
        outputs = tuple(tuple(share > 0 for share in row) for row in self.weights)
        only = id(self) if self.alone else None
        forward = self.loaded.forwards.get(self.model)
        return (forward, outputs, self.tile, self.bits, self.consistent, only)

    @property
    def is_resident(self) -> bool:
        """True if its model is on the device."""
        return self.loaded.forwards[self.model].forward is not None


class RunningBatch(NamedTuple):
    """A batch that is being computed on the device."""

    batch: list[tuple[Client, int]]
    wait: Callable[[], NDArray[np.unsignedinteger]]
    began: float


class EngineServer:
    """Serves tiles on a unix socket until `stop`."""

    def __init__(
        self,
        loaded: LoadedEngine,
        *,
        path: Path,
        computed: Callable[[str, int, int, float], None] = lambda *_: None,
    ) -> None:
        """Listen on `path`; `computed` is called for each batch: model, tiles, side, seconds."""
        self.tiles_done = 0
        self._computed = computed
        self._finished_at = 0.0
        self._started_at, self._overdue_at = 0.0, float("inf")
        #: Start of the batch that `overdue` saw last, and the seconds without a processor then.
        self._seen = 0.0, 0.0
        self.fallback = OutOfMemoryFallback(
            batch=loaded.max_batch,
            tile=max(loaded.tiles),
            release=lambda: self.loaded.release(),  # noqa: PLW0108 - a reload replaces it
        )
        #: The models of new jobs; tile sides and batch sizes stay as at startup.
        self.loaded = loaded
        self._idle_action: Callable[[], None] | None = None
        self._slots = max(4, 2 * loaded.max_batch)
        self._clients: deque[Client] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._listener = _listen(path)
        self._wake_reader, self._woken = socket.socketpair()
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)

    def serve(self) -> None:
        """Serve until `stop` is called; exceptions of the network end it."""
        self._reader.start()
        running: RunningBatch | None = None
        while True:
            with self._changed:
                if running is None:
                    self._changed.wait_for(
                        lambda: self._stopping or self._idle_action or self._pending()
                    )
                if self._stopping:
                    break
                idle_action = self._idle_action
                batch = self._next_batch() if self._pending() and not idle_action else []
            if running is None and idle_action is not None:
                self._idle_action = None
                idle_action()
            if batch and running is not None and not batch[0][0].is_resident:
                self._finish(running)
                running = None  # its model may have to be evicted
            following = self._begin(batch) if batch else None
            # Until the next batch these would keep shared memory and networks of ended jobs.
            batch, idle_action = [], None
            if running is not None:
                self._finish(running)
            running, following = following, None
            if running is not None and not self.loaded.overlaps:
                self._finish(running)
                running = None
        if running is not None:
            self._finish(running)
        self._wake_reader.close()
        self._reader.join()
        self._woken.close()

    def stop(self) -> None:
        """End `serve` after the current batch; thread-safe."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def between_batches(self, action: Callable[[], Found]) -> Found:
        """Run an action on the compute thread while the device is idle.

        For one other thread, which waits for it; an exception of the action ends `serve`.
        """
        done: Future[Found] = Future()
        with self._changed:
            self._idle_action = lambda: done.set_result(action())
            self._changed.notify()
        return done.result()

    @property
    def waiting_tiles(self) -> int:
        """Number of waiting tiles; thread-safe."""
        with self._changed:
            return self._pending()

    def overdue(self) -> bool:
        """True if a batch takes far longer than measured; for one thread that asks regularly.

        Time without a processor, which other programs had, does not count.
        """
        batch, starved = self._seen
        if batch != self._started_at:
            self._seen = batch, starved = self._started_at, seconds_starved()
        late = time.perf_counter() - self._overdue_at
        return late > 0 and late > seconds_starved() - starved

    def _pending(self) -> int:
        return sum(len(client.waiting) for client in self._clients)

    def _next_batch(self) -> list[tuple[Client, int]]:
        wanting = [client for client in self._clients if client.waiting]
        if self.loaded.model_cache.resident_first:
            wanting = [client for client in wanting if client.is_resident] or wanting
        while self._clients[0] not in wanting:
            self._clients.rotate(-1)
        first = self._clients[0]
        sharing = [client for client in self._clients if client.batch_key == first.batch_key]
        # Powers of two only: a GPU computes few shapes, compiled and recorded ahead.
        ready = sum(len(client.waiting) for client in sharing)
        ready = min(ready, first.loaded.batches[first.tile])
        size = 1 << (ready.bit_length() - 1)
        batch: list[tuple[Client, int]] = []
        while len(batch) < size:
            for client in sharing:
                if client.waiting and len(batch) < size:
                    batch.append((client, client.waiting.popleft()))
        self._clients.rotate(-1)
        return batch

    def _begin(self, batch: list[tuple[Client, int]]) -> RunningBatch | None:
        """Start a batch; returns at once if the device is asynchronous.

        Returns None if its model could not be loaded; its jobs were notified.
        """
        first = batch[0][0]
        network = first.loaded.forwards[first.model]
        try:
            begin = partial(network.ready().start, consistent=first.consistent)
        except errors.ModelNotLoaded as failure:
            log.error("%s", failure)
            # Not an error if a reload has replaced it in the meantime: the job starts again.
            slug = errors.CheckpointReplaced.slug if network.replaced else failure.slug
            for client in dict.fromkeys(client for client, _ in batch):
                self._refuse(client, slug, failure.reason)
            return None
        tiles = np.stack([_shared(client).inputs[slot] for client, slot in batch])
        weights = np.array([client.weights for client, _ in batch], dtype=np.float32)
        for client, slot in batch:
            _shared(client).flags[slot] = 1
        began = self._started_at = time.perf_counter()
        pixels = len(batch) * first.tile**2 * (FLOAT32_FACTOR if first.bits == 16 else 1)
        slowest = min(network.info.pixels_per_second.values(), default=0.0)
        if slowest:
            self._overdue_at = began + batch_time_limit(pixels / slowest)
        return RunningBatch(batch, self.fallback.start(begin, tiles, weights), began)

    def _finish(self, running: RunningBatch) -> None:
        """Wait for a batch, and notify its clients."""
        batch, first = running.batch, running.batch[0][0]
        try:
            results = running.wait()
        except NotFinite:
            if len(batch) > 1:  # find the tile that caused it
                for entry in batch:
                    if (alone := self._begin([entry])) is not None:
                        self._finish(alone)
            else:
                self._refuse(batch[0][0], errors.TileNotFinite.slug, "")
            return
        except errors.EngineOutOfMemory as failure:
            for client, _ in batch:
                self._refuse(client, failure.slug, str(failure), tile=failure.tile)
            return
        finally:
            if running.began >= self._started_at:  # no other batch was started early
                self._overdue_at = float("inf")
        # A batch that was started early had to wait for the previous one.
        began, self._finished_at = max(running.began, self._finished_at), time.perf_counter()
        self._computed(first.model, len(batch), first.tile, self._finished_at - began)
        # the greeting did not know it if this was the first batch of the model
        precision = first.loaded.forwards[first.model].info.precision
        for (client, slot), result in zip(batch, results, strict=True):
            shared = _shared(client)
            shared.outputs[slot] = result
            shared.flags[slot] = 0
            self.tiles_done += 1
            client.tiles += 1
            try:
                send(client.connection, {"done": slot, "precision": precision})
            except OSError:
                self._drop(client)

    def _refuse(self, client: Client, slug: str, detail: str, *, tile: int = 0) -> None:
        if client.shared is not None:
            client.shared.flags[:] = 0
        with suppress(OSError):
            answer = {"failed": slug, "detail": detail, "tile": tile, "model": client.model}
            send(client.connection, answer)
        self._drop(client)

    def _drop(self, client: Client) -> None:
        """Drop a client; the reader sees the end of its connection and closes it."""
        with self._changed:
            client.waiting.clear()
            with suppress(ValueError):
                self._clients.remove(client)
        with suppress(OSError):
            client.connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._read_ready(selector):
                pass
            self._listener.close()
            for key in list(selector.get_map().values()):
                if isinstance(key.data, Client):
                    key.data.connection.close()

    def _read_ready(self, selector: selectors.BaseSelector) -> bool:
        """Read what has arrived; False if `serve` has ended.

        Holds no key while it waits: the key of an ended job would keep its shared memory.
        """
        for key, _ in selector.select():
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept(selector)
            else:
                self._receive(key.data, selector)
        return True

    def _accept(self, selector: selectors.BaseSelector) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_SEND_SECONDS)
        client = Client(connection, self.loaded)
        with self._changed:
            pending = self._pending()
        greeting: dict[str, object] = {
            "tiles": list(client.loaded.tiles),
            "slots": self._slots,
            "pending": pending,
            "device": client.loaded.device_name,
            "models": {
                m.name: [m.sha256, m.precision, client.loaded.consistency(m.name)]
                for m in client.loaded.models
            },
        }
        try:
            send(connection, greeting)
        except OSError:
            connection.close()
            return
        selector.register(connection, selectors.EVENT_READ, client)
        with self._changed:
            self._clients.append(client)

    def _receive(self, client: Client, selector: selectors.BaseSelector) -> None:
        fds: list[int] = []
        try:
            received = receive(client.connection)
            if received is None:
                self._close(client, selector)
                return
            message, fds = received
            if client.shared is None:
                self._open(client, message, fds)
            else:
                self._enqueue(client, message)
        except OSError:
            self._close(client, selector)  # it may be gone at any time
        except (ProtocolError, KeyError, OverflowError, TypeError, ValueError) as failure:
            log.warning("dropping a client: %s", failure, extra=client.about)
            self._refuse(client, "engine-refused", str(failure))
            self._close(client, selector)
        finally:
            for fd in fds:
                os.close(fd)

    def _open(self, client: Client, message: dict[str, Any], fds: list[int]) -> None:
        if message["model"] not in client.loaded.forwards:
            raise ProtocolError(f"there is no model {message['model']!r}")
        client.weights = tuple(tuple(map(float, row)) for row in message["weights"])
        if len(fds) != 1 or not 1 <= len(client.weights) <= MAX_RESULTS:
            raise ProtocolError("the opening needs weights and one file descriptor")
        for row in client.weights:
            if len(row) != len(Weights._fields) or not any(row) or (row[-1] and any(row[:-1])):
                raise ProtocolError("weights must be for three outputs, or for the mask alone")
        client.model = str(message["model"])
        client.tile = int(message["tile"])
        if client.tile not in client.loaded.tiles:
            raise ProtocolError(f"unsupported tile side: {client.tile} pixels")
        client.about = {name: message.get(name) for name in ("job", "traceparent")}
        client.alone = bool(message["alone"])
        wished = message.get("consistent")
        client.consistent = (
            client.loaded.consistency(client.model) if wished is None else bool(wished)
        )
        client.bits = int(message.get("bits", 8))
        if client.bits not in (8, 16):
            raise ProtocolError(f"unsupported bits per sample: {client.bits}")
        slots = int(message["slots"])
        if not 1 <= slots <= self._slots:
            raise ProtocolError(f"unsupported number of slots: {slots}")
        layout = Layout(slots, client.tile, len(client.weights), client.bits)
        client.shared = open_shared_tiles(fds[0], layout)

    def _enqueue(self, client: Client, message: dict[str, Any]) -> None:
        slot = int(message["slot"])
        slots = len(_shared(client).flags)
        if not 0 <= slot < slots or len(client.waiting) >= slots:
            raise ProtocolError(f"no slot {slot}")
        with self._changed:
            client.waiting.append(slot)
            self._changed.notify()

    def _close(self, client: Client, selector: selectors.BaseSelector) -> None:
        if client.tiles:
            log.info("%d tiles computed", client.tiles, extra=client.about)
        selector.unregister(client.connection)
        self._drop(client)
        client.connection.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o600)
    # While the engine hangs, all job workers wait here and the watchdog connects beside them.
    listener.listen(socket.SOMAXCONN)
    return listener


def _shared(client: Client) -> SharedTiles:
    if client.shared is None:
        raise ProtocolError("a tile before the opening")
    return client.shared
