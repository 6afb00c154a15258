"""Responses to requests whose body was not read to its end, or whose end is ambiguous.

The response has `Connection: close`, and the rest of the body is read for a moment: closing a
connection while the client still sends may lose the response. Bytes after a body with both
`Content-Length` and `Transfer-Encoding` are not read: a proxy may take them for part of it
(RFC 9112, section 6.1).
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Maximum bytes of an unwanted body that are read.
_REST_BYTES = 4 * 1024**2
#: Timeout for each chunk of an unwanted body.
_DRAIN_TIME = timedelta(seconds=2)


class UnreadBodies:
    """ASGI middleware around everything that may respond without reading the request body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        unread, closing = True, False
        ambiguous = {"content-length", "transfer-encoding"} <= set(Headers(scope=scope).keys())
        last: Message | None = None

        async def receive_noted() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def send_noted(message: Message) -> None:
            nonlocal closing, last
            if message["type"] == "http.response.start" and (unread or ambiguous):
                closing = unread
                MutableHeaders(scope=message)["Connection"] = "close"
            elif closing and not message.get("more_body", False):
                last = {"type": "http.response.body"}  # closes the connection: sent later
                message = {**message, "more_body": True}
            await send(message)

        await self.app(scope, receive_noted, send_noted)
        if last is not None:
            await _read_on(receive)
            await send(last)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


async def _read_on(receive: Receive) -> None:
    left = _REST_BYTES
    with suppress(TimeoutError):
        while left > 0:
            async with asyncio.timeout(_DRAIN_TIME.total_seconds()):
                message = await receive()
            if not message.get("more_body", False):
                return
            left -= len(message["body"])
