"""One delivery attempt of a webhook: signed, to a checked address, with a timeout.

Signatures follow Standard Webhooks 1.0 (standardwebhooks.com): HMAC-SHA256 over
`id.timestamp.body`, one for each secret, so that secrets can be rotated without a gap.
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Timeout of an attempt, from connecting to the end of the response.
LONGEST_ATTEMPT = timedelta(seconds=15)
_CONNECT_SECONDS = 5.0
_MAX_ANSWER_BYTES = 64 * 1024
#: The global unicast range of IPv6; ranges that tunnel IPv4 are excluded below.
_IPV6_HOSTS = ipaddress.IPv6Network("2000::/3")
_IPV6_OVER_IPV4 = ipaddress.IPv6Network("2002::/16")


class Undeliverable(Exception):
    """The attempt failed; the message is shown to the owner of the webhook."""


class Target(NamedTuple):
    """The parsed URL of a webhook."""

    host: str
    port: int
    path: str
    """Path and query."""

    @property
    def place(self) -> str:
        """Host and port as in the `Host` header and in the allow-list."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"


class Answer(NamedTuple):
    """The response of the receiver."""

    status: int
    retry_after: timedelta = timedelta(0)
    """Pause that the receiver asks for; zero if it does not."""


def signed_headers(
    message_id: str, body: bytes, *, secrets: Sequence[bytes], now: int
) -> dict[str, str]:
    """The three headers of Standard Webhooks; `now` is in seconds since 1970."""
    content = f"{message_id}.{now}.".encode() + body
    digests = [hmac.digest(secret, content, hashlib.sha256) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(digest).decode()}" for digest in digests
        ),
    }


def deliver(
    target: Target,
    message_id: str,
    body: bytes,
    *,
    secrets: Sequence[bytes],
    networks: Sequence[Network],
    trust: ssl.SSLContext,
) -> Answer:
    """POST the body; returns the response. Redirects are not followed.

    The name is resolved once, and the connection goes to the address that was checked.

    Raises:
        Undeliverable: there was no response, or the name resolves to an address that is neither
            public nor in one of the `networks`.
    """
    headers = {
        "Host": target.place,
        "Content-Type": "application/json",
        "User-Agent": "GDSR",
        **signed_headers(message_id, body, secrets=secrets, now=int(time.time())),
    }
    connection = http.client.HTTPConnection(target.host, target.port)
    try:
        plain = _connected(_addresses(target, networks), target.port)
        plain.settimeout(LONGEST_ATTEMPT.total_seconds())
        # http.client would resolve the name again. A socket timeout restarts with each byte, so a
        # timer of ours ends slow exchanges.
        connection.sock = secure = trust.wrap_socket(
            plain, server_hostname=target.host, do_handshake_on_connect=False
        )
        timer = threading.Timer(LONGEST_ATTEMPT.total_seconds(), _abort, [secure])
        timer.daemon = True
        timer.start()
        try:
            secure.do_handshake()
            connection.request("POST", target.path, body, headers)
            answer = connection.getresponse()
            answer.read(_MAX_ANSWER_BYTES)
            return Answer(answer.status, retry_after(answer.headers.get("Retry-After", "")))
        finally:
            timer.cancel()
    except ssl.SSLCertVerificationError as failure:
        raise Undeliverable(f"invalid certificate: {failure.verify_message}") from None
    except (OSError, http.client.HTTPException) as failure:
        raise Undeliverable(f"no response: {type(failure).__name__}") from None
    finally:
        connection.close()


def retry_after(value: str) -> timedelta:
    """The pause in a `Retry-After` header: seconds or a date (RFC 9110, 10.2.3); else zero."""
    with suppress(ValueError, OverflowError):
        if re.fullmatch("[0-9]+", value.strip()):
            return timedelta(seconds=min(int(value), 2**31))  # a timedelta holds no more than 10^14
        return max(timedelta(0), parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC))
    return timedelta(0)


def is_public(address: str) -> bool:
    """True if an IP address is a public one.

    Excludes loopback, private, link-local, multicast and reserved addresses, and IPv6 addresses
    that embed an IPv4 one: mapped, 6to4, Teredo, NAT64.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _IPV6_HOSTS or ip in _IPV6_OVER_IPV4):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _addresses(target: Target, networks: Sequence[Network]) -> list[str]:
    """Resolve the name; a single address that is not allowed rejects all."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Undeliverable("the host name cannot be resolved") from None
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        inside = any(ipaddress.ip_address(address) in network for network in networks)
        if not inside and not is_public(address):
            raise Undeliverable("the host name resolves to an address that is not public")
    return addresses


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first address that accepts one."""
    for number, address in enumerate(addresses, start=1):
        try:
            return socket.create_connection((address, port), _CONNECT_SECONDS / len(addresses))
        except OSError:
            if number == len(addresses):
                raise
    raise Undeliverable("the host name has no address")


def _abort(connection: socket.socket) -> None:
    """Abort reads and writes that block in another thread."""
    with suppress(OSError):  # already closed
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
