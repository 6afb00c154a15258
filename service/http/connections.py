"""An HTTP connection with timeouts: stalled request heads, bodies and downloads are cut.

The number of connections is limited to the number of files that are available to serve them.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Interval of the check; a connection without progress since the last check is cut.
LOOK = timedelta(seconds=15)
#: Bytes of a body that count as progress.
_STEP_BYTES = 16 * 1024
#: Bytes of a rejected body that are still read, so that the client sees the response.
_REST_BYTES = 4 * 1024**2
#: Connections that hold chunks of a download in memory, two chunks each.
_MOST_BLOCKED = 400
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Length: 0\r\n\r\n"
)

logger = logging.getLogger(__name__)


class Connection(H11Protocol):
    """Uvicorn's HTTP protocol with timeouts and a connection limit."""

    def __init__(
        self,
        *args: Any,
        limit: int,
        blocked: "dict[Connection, None]",
        look: timedelta = LOOK,
        **named: Any,
    ) -> None:
        """`blocked`: connections of this server with a client that does not read, oldest first."""
        super().__init__(*args, **named)
        self._blocked = blocked
        self._limit, self._pause = limit, look.total_seconds()
        self._began = self.loop.time()
        self._received = self._rest = self._unblocked = self._heads = 0
        self._seen: object = None
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limit and not self._make_room():
            transport.write(_BUSY)
            transport.close()
            return
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        self._blocked.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._is_refused():
            self._rest += len(data)
            if self._rest > _REST_BYTES:
                self.transport.abort()
                return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._heads += 1

    def pause_writing(self) -> None:
        self._blocked[self] = None
        if len(self._blocked) > _MOST_BLOCKED:
            next(iter(self._blocked)).transport.abort()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unblocked += 1
        self._blocked.pop(self, None)
        super().resume_writing()

    def _look_later(self) -> None:
        self._next_look = self.loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        waits_for = self._waits_for()
        if waits_for is not None and waits_for == self._seen:
            logger.info("connection cut: %s stalled", waits_for[0])
            self.transport.abort()
            return
        self._seen = waits_for
        self._look_later()

    def _waits_for(self) -> tuple[str, int] | None:
        """The part of a request that the connection waits for, and its progress; None if
        nothing.
        """
        if self.flow.write_paused:
            return "the client's reading of the response", self._unblocked
        if self._is_refused():
            return "the request body", self._heads
        if self.is_idle():
            begun = self.cycle is None or bool(self.conn.trailing_data[0])
            # otherwise uvicorn closes the connection
            return ("a head", self._heads) if begun else None
        if self.cycle.more_body and not self.flow.read_paused:
            return "a body", self._received // _STEP_BYTES
        return None

    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _is_refused(self) -> bool:
        """Whether the response was sent before the whole body arrived."""
        return (
            self.cycle is not None
            and self.cycle.response_complete
            and self.conn.their_state is h11.SEND_BODY
        )

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if any is idle."""
        others = [
            one for one in self.connections if isinstance(one, Connection) and one is not self
        ]
        idle = [one for one in others if one.is_idle()]
        if idle:
            min(idle, key=lambda one: one._began).transport.abort()  # noqa: SLF001 - of this class
        return bool(idle)
