"""Who may ask a service that is bound to loopback and has no keys: this machine alone.

A browser sends what any page tells it to. A name that an attacker points at 127.0.0.1 comes in
`Host`, a request of another site's page says so in `Origin` or `Sec-Fetch-Site`, and one that a
proxy hands on has a header of the proxy's.
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import answer, describe
from workers.contract.errors import GDSRError, HostNotServed, OriginNotServed

_SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
#: A page of another origin; `none` is a person who typed the address.
_FOREIGN = {"cross-site", "same-site"}
#: With any of these a request has come through a proxy, from who knows where.
_FORWARDED = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
)  # fmt: skip


class LoopbackGuard:
    """ASGI middleware of a service without keys on loopback."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.app = app
        self.hosts, self.origins = {host.lower() for host in hosts}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await answer(describe(refusal, instance=scope["path"]))(scope, receive, send)

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
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return OriginNotServed(origin)
        if headers.get("sec-fetch-site", "none") in _FOREIGN:
            return OriginNotServed(headers["sec-fetch-site"])
        return None


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(scope: Scope) -> bool:
    """Whether a request comes from a program on this machine, and not through a proxy."""
    headers = Headers(scope=scope)
    client = scope.get("client") or ("", 0)
    return is_loopback(client[0]) and not any(name in headers for name in _FORWARDED)


def _name(host: str) -> str:
    """Of a `Host` header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
