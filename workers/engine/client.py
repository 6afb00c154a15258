"""The engine's client: sends tiles, and yields the results in order.

If the engine dies, the client waits for an engine of this host and sends the unanswered tiles
again. If tiles of this picture were being computed at that moment, the picture is computed alone
from then on; the second time it fails.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from workers.contract import errors
from workers.contract.observability import logs
from workers.engine.protocol import (
    MAX_GREETING,
    Layout,
    ProtocolError,
    SharedTiles,
    create_shared_tiles,
    receive,
    send,
    slots_within,
)
from workers.tiles.tiling import Pixels
from workers.tiles.trade_off import Weights

#: Timeout of an answer; normally the job's own time limit comes first.
_ANSWER_SECONDS = 600
_RETRY_SECONDS = 0.05
_MAX_LOSSES = 2
#: Shared memory of one job, without the slots that let the engine start a batch early.
_SHARED_BYTES = 256 * 1024**2
_MIN_SLOTS = 2


class Engine(Protocol):
    """An engine: the client below, or the network in the same process."""

    @property
    def tiles(self) -> Sequence[int]:
        """Accepted tile sides in pixels; all tiles of a picture have the same."""

    def run(
        self,
        tiles: Iterable[Pixels],
        *,
        model: str,
        weights: Sequence[Weights],
        consistent: bool | None = None,
    ) -> Iterator[Pixels]:
        """Map (T, T, 3) tiles to (R, 4T, 4T, 3) results, in order; each is valid until the next is
        requested.

        A tile has one result for each of the R weights, from one pass through the network. Tiles
        and results are all uint8 or all uint16. `consistent`: apply back-projection to all results
        except the mask; None: as in the model card.

        Raises:
            EngineLost: no engine came back in time, or two died on tiles of this picture.
            CheckpointReplaced: the engine that came back has another checkpoint for the model.
            ModelNotLoaded: the model was evicted and cannot be loaded again.
            EngineOutOfMemory: even the smallest tile did not fit.
            TileNotFinite: the network's output is not finite.
        """


class MadeBy(NamedTuple):
    """Model and device that computed a picture."""

    checkpoint: str
    """SHA-256 of the checkpoint file."""
    precision: str
    device: str
    consistency: bool
    """Default of back-projection in the model card."""


class EngineClient:
    """One job's connection to the engines of this host."""

    def __init__(self, sockets: Sequence[Path], *, model: str, patience: timedelta) -> None:
        """Connect to an engine that has the model; after a reconnection the checkpoint must be the
        same.

        Raises:
            EngineLost: no engine answers in time.
            ModelUnknown: no engine has the model.
        """
        self._sockets = sockets
        self._model = model
        self._checkpoint: str | None = None
        self._precision: str | None = None
        self._patience = patience.total_seconds()
        self._losses = 0
        self._needed: tuple[int, int] | None = None
        """Side of the tiles, and number of slots, of the picture in progress."""
        self._connection, self._greeting = self._connect()
        self.tiles: list[int] = self._greeting["tiles"]
        self._checkpoint = self.made_by(model).checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def made_by(self, model: str) -> MadeBy:
        """Model and device of the connected engine; the precision is known once a tile is done."""
        checkpoint, precision, consistency = self._greeting["models"][model]
        return MadeBy(
            checkpoint=checkpoint,
            precision=self._precision or precision,
            device=self._greeting["device"],
            consistency=consistency,
        )

    def run(
        self,
        tiles: Iterable[Pixels],
        *,
        model: str,
        weights: Sequence[Weights],
        consistent: bool | None = None,
    ) -> Iterator[Pixels]:
        """See `Engine.run`."""
        supply = iter(tiles)
        leading = next(supply, None)
        if leading is None:
            return
        tile, bits = len(leading), 8 * leading.dtype.itemsize
        used, self._needed = self._needed is not None, (tile, 1)
        if used:  # an engine accepts one opening per connection
            self._reconnect()
        fitting = slots_within(_SHARED_BYTES, tile=tile, results=len(weights), bits=bits)
        most = min(self._greeting["slots"], max(_MIN_SLOTS, fitting))
        first = [leading, *islice(supply, most - 1)]
        slots = len(first)  # a small picture has fewer tiles
        self._needed = tile, slots
        fd, shared = create_shared_tiles(Layout(slots, tile, len(weights), bits))
        opening: dict[str, object] = {
            "model": model, "weights": weights, "tile": tile, "slots": slots, "bits": bits,
            "consistent": consistent,
            "job": logs.job_id.get(), "traceparent": logs.traceparent.get(),
        }  # fmt: skip
        try:
            yield from self._run(chain(first, supply), fd, shared, opening)
        finally:
            os.close(fd)

    def _run(
        self, tiles: Iterator[Pixels], fd: int, shared: SharedTiles, opening: dict[str, object]
    ) -> Iterator[Pixels]:
        free = deque(range(len(shared.flags)))
        sent: deque[int] = deque()  # slots in the order of their tiles
        done: set[int] = set()

        def reopen(*, lost: bool) -> None:
            while True:
                if lost:
                    if shared.flags.any():  # tiles of this picture were being computed
                        self._losses += 1
                        shared.flags[:] = 0
                    if self._losses >= _MAX_LOSSES:
                        raise errors.EngineLost(
                            "it died twice while computing tiles of this picture"
                        )
                    self._reconnect()
                try:
                    send(self._connection, {**opening, "alone": self._losses > 0}, (fd,))
                    for slot in sent:
                        if slot not in done:
                            send(self._connection, {"slot": slot})
                    return
                except OSError:
                    lost = True

        reopen(lost=False)
        while True:
            while free and (tile := next(tiles, None)) is not None:
                slot = free.popleft()
                shared.inputs[slot] = tile
                sent.append(slot)
                with suppress(OSError):  # reading the answer below detects the loss
                    send(self._connection, {"slot": slot})
            if not sent:
                return
            while sent[0] not in done:
                answer = self._answer()
                if answer is None:
                    reopen(lost=True)
                else:
                    done.add(answer)
            slot = sent.popleft()
            done.remove(slot)
            yield shared.outputs[slot]
            free.append(slot)

    def _answer(self) -> int | None:
        """The slot that is done; None if the engine is lost."""
        try:
            received = receive(self._connection)
        except TimeoutError:
            raise errors.EngineLost(f"no answer within {_ANSWER_SECONDS} seconds") from None
        except (OSError, ProtocolError):
            return None
        if received is None:
            return None
        message, _ = received
        if "failed" in message:
            raise _failure(message)
        self._precision = message.get("precision")
        return int(message["done"])

    def _reconnect(self) -> None:
        self._connection.close()
        self._connection, self._greeting = self._connect()
        if not self._fits(self._greeting):
            raise errors.EngineLost("the restarted engine has a different tile size")
        if self.made_by(self._model).checkpoint != self._checkpoint:
            raise errors.CheckpointReplaced

    def _connect(self) -> tuple[socket.socket, dict[str, Any]]:
        """Connect to the engine with the fewest waiting tiles; also returns its greeting."""
        deadline = time.monotonic() + self._patience
        while True:
            found = [
                answer for path in self._sockets if (answer := _open_connection(path)) is not None
            ]
            found.sort(key=self._sort_key)
            having = [answer for answer in found if self._model in answer[1]["models"]]
            for answer in found:
                if answer not in having[:1]:
                    answer[0].close()
            if having:
                return having[0]
            if time.monotonic() > deadline:
                if found:
                    known = ", ".join(sorted(found[0][1]["models"]))
                    raise errors.ModelUnknown(name=self._model, known=known)
                raise errors.EngineLost(
                    f"no engine was available within {self._patience:.0f} seconds"
                )
            time.sleep(_RETRY_SECONDS)

    def _sort_key(self, answer: tuple[socket.socket, dict[str, Any]]) -> tuple[bool, bool, int]:
        """Sort key for engines: first those that can continue the picture, then by load."""
        greeting = answer[1]
        checkpoint, *_ = greeting["models"].get(self._model, (None,))
        return (checkpoint != self._checkpoint, not self._fits(greeting), greeting["pending"])

    def _fits(self, greeting: dict[str, Any]) -> bool:
        """True if an engine accepts the tiles of the picture in progress."""
        if self._needed is None:
            return True
        tile, slots = self._needed
        return tile in greeting["tiles"] and slots <= greeting["slots"]


def _open_connection(path: Path) -> tuple[socket.socket, dict[str, Any]] | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(str(path))
        if (received := receive(connection, limit=MAX_GREETING)) is not None:
            return connection, received[0]
    except (OSError, ProtocolError):
        pass
    connection.close()
    return None


def _failure(message: dict[str, Any]) -> errors.GDSRError:
    match message["failed"]:
        case errors.EngineOutOfMemory.slug:
            return errors.EngineOutOfMemory(tile=message["tile"])
        case errors.ModelNotLoaded.slug:
            return errors.ModelNotLoaded(name=message["model"], reason=message["detail"])
        case errors.CheckpointReplaced.slug:
            return errors.CheckpointReplaced()
        case errors.TileNotFinite.slug:
            return errors.TileNotFinite()
        case _:
            return errors.EngineLost(str(message.get("detail")))
