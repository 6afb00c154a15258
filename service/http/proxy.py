"""Support for reverse proxies (path prefix) and for pages of other origins (CORS)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

#: The prefix of addresses, such as `/gdsr`; set for each request and for background tasks.
ROOT: ContextVar[str] = ContextVar("root_path", default="")
#: Headers that scripts of other origins may send and read, besides the CORS-safelisted ones.
CORS: Mapping[str, Any] = {
    "allow_methods": ("DELETE", "GET", "HEAD", "POST"),
    "allow_headers": (
        "Authorization", "Cache-Control", "Content-Digest", "Content-Type", "Idempotency-Key",
        "If-None-Match", "If-Range", "Last-Event-ID", "Prefer", "Range", "Repr-Digest",
        "X-API-Key",
    ),
    "expose_headers": (
        "Allow", "Cache-Status", "Content-Digest", "Content-Disposition", "Content-Location",
        "Content-Range", "ETag", "Location", "Preference-Applied", "RateLimit",
        "RateLimit-Policy", "Repr-Digest", "Retry-After", "Server-Timing", "X-Request-ID",
    ),
}  # fmt: skip


def address(path: str) -> str:
    """The path under which a client reaches `path`."""
    return ROOT.get() + path


class ProxyPrefix:
    """ASGI middleware: puts a prefix before all addresses, whether or not the proxy strips it."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ROOT.set(self.root_path)
        if scope["type"] == "http" and self.root_path:
            path: str = scope["path"]
            if not (path + "/").startswith(self.root_path + "/"):
                path = self.root_path + path
            scope = {**scope, "root_path": self.root_path, "path": path}
        await self.app(scope, receive, send)
