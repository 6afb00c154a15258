"""Restricts a service that listens on loopback without API keys to local requests.

Protects against DNS rebinding (checks `Host`), against requests from pages of other sites (checks
`Origin` and `Sec-Fetch-Site`), and against requests forwarded by a proxy (checks its headers).
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import error_response
from workers.contract.errors import GDSRError, HostNotServed, OriginNotServed

_SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
#: Sent for a page of another origin; `none` means that the user typed the address.
_FOREIGN = {"cross-site", "same-site"}
#: Any of these headers means that the request came through a proxy.
_FORWARDED = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
)  # fmt: skip


class LoopbackGuard:
    """ASGI middleware that rejects non-local requests to a service on loopback without keys."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.app = app
        self.hosts, self.origins = {host.lower() for host in hosts}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await error_response(refusal, instance=scope["path"])(scope, receive, send)

    def _refusal(self, scope: Scope) -> GDSRError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "localhost")
        name = _name(host)
        if not is_loopback(name) and name not in self.hosts:
            return HostNotServed(name)
        origin = headers.get("origin")
        known = origin in self.origins or "*" in self.origins
        if scope["method"] in _SAFE or known:
            return None
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return OriginNotServed(origin)
        if headers.get("sec-fetch-site", "none") in _FOREIGN:
            return OriginNotServed(headers["sec-fetch-site"])
        return None


def is_loopback(host: str) -> bool:
    """True if a host name or address is a loopback one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(scope: Scope) -> bool:
    """True if a request comes from a program on this machine and not through a proxy."""
    headers = Headers(scope=scope)
    client = scope.get("client") or ("", 0)
    return is_loopback(client[0]) and not any(name in headers for name in _FORWARDED)


def _name(host: str) -> str:
    """The host of a `Host` header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
