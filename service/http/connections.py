"""An HTTP connection with deadlines: closed when a request head, body or download stalls.

The number of connections is limited by the number of files that may be open.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import ProblemDocument, problem_response

#: Number of checks within a timeout.
_CHECKS_PER_LIMIT = 6
#: Bytes of a body that count as progress.
_STEP_BYTES = 16 * 1024
#: Maximum number of connections that hold chunks of a download in memory, two chunks each.
_MAX_BLOCKED = 400

logger = logging.getLogger(__name__)


class Connection(H11Protocol):
    """Uvicorn's HTTP protocol with timeouts and a connection limit."""

    def __init__(
        self,
        *args: Any,
        most: int,
        head: timedelta,
        body: timedelta,
        blocked: "dict[Connection, None]",
        **named: Any,
    ) -> None:
        """`most`: the number of connections; `head`, `body`: the time after which a connection
        without progress is closed; `blocked`: connections of this server with a client that does
        not read, oldest first.
        """
        super().__init__(*args, **named)
        self._most, self._head, self._body, self._blocked = most, head, body, blocked
        self._began = self._since = self.loop.time()
        self._received = self._unblocked = self._heads = 0
        self._seen: object = None
        self._next_check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most and not self._make_room():
            busy = "too many connections are open; try again later"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, busy, {"Retry-After": "5"})
            return
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_check is not None:
            self._next_check.cancel()
        self._blocked.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._heads += 1

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the message of h11 is more precise
        """Answer bytes that are not an HTTP request; called while the error of h11 is handled."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST)
        self._refuse(HTTPStatus(status), f"the request is not valid HTTP: {error}")

    def _refuse(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Close the connection, after a problem document unless a response has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            problem = ProblemDocument(
                type="about:blank", title=status.phrase, status=status, detail=detail
            )
            answer = problem_response(problem, {"Connection": "close", **headers})
            for event in (
                h11.Response(
                    status_code=status, headers=answer.raw_headers, reason=status.phrase.encode()
                ),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        self._blocked[self] = None
        if len(self._blocked) > _MAX_BLOCKED:
            next(iter(self._blocked)).transport.abort()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unblocked += 1
        self._blocked.pop(self, None)
        super().resume_writing()

    def _check(self) -> None:
        now, waits_for = self.loop.time(), self._waits_for()
        if waits_for != self._seen:
            self._seen, self._since = waits_for, now
        elif waits_for is not None:
            part, _, timeout = waits_for
            if now - self._since >= timeout.total_seconds():
                logger.debug("connection closed: %s stalled", part)  # debug: there may be many
                self.transport.abort()
                return
        pause = min(self._head, self._body).total_seconds() / _CHECKS_PER_LIMIT
        self._next_check = self.loop.call_later(pause, self._check)

    def _waits_for(self) -> tuple[str, int, timedelta] | None:
        """The part of a request that the connection waits for, its progress, and how long it may
        take; None if it waits for nothing.
        """
        if self.flow.write_paused:
            return "the client's reading of the response", self._unblocked, self._body
        if self.is_idle():
            started = self.cycle is None or bool(self.conn.trailing_data[0])
            # otherwise uvicorn closes the connection
            return ("a head", self._heads, self._head) if started else None
        if self.cycle.more_body and not self.flow.read_paused:
            return "a body", self._received // _STEP_BYTES, self._body
        return None

    def is_idle(self) -> bool:
        """True if no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if any is idle."""
        connections = [one for one in self.connections if isinstance(one, Connection)]
        if idle := [one for one in connections if one is not self and one.is_idle()]:
            min(idle, key=lambda one: one._began).transport.abort()  # noqa: SLF001 - of this class
        return bool(idle)
