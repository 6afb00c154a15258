"""Redis behind Sentinels, which name the primary and promote a replica when it dies.

A connection asks the Sentinels each time it is opened. Replication is asynchronous, so a promoted
replica may lack the last writes: those that must not be lost wait for a replica.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.connection import SSLConnection, parse_url
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, ResponseError
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)

from workers.contract.settings import read_password

_PORT = 26379
_FORM = "redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/NAME[/DB]"
#: Timeout for a response of a Sentinel, in seconds; then the next one is asked.
_SENTINEL_SECONDS = 0.5
#: How long a write waits for a replica; less than the patience of a request.
_REPLICA_MILLISECONDS = 1000
_MARK = "gdsr:replicated"


class PrimaryNotFound(redis.ConnectionError):
    """Sentinels answer, but name no server that is a primary."""


class NotReplicated(redis.ConnectionError):
    """A write was executed, but no replica has confirmed it: a failover may lose it."""


class _Sentinels(Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The address of the primary, from the first Sentinel that knows it."""
        silent: list[str] = []
        wrong: list[str] = []
        for asked in list(self.sentinels):
            place = "{host}:{port}".format_map(asked.connection_pool.connection_kwargs)
            try:
                found = asked.sentinel_get_master_addr_by_name(service_name)
            except (AuthenticationError, NoPermissionError) as failure:
                wrong.append(
                    f"Sentinel {place} rejects sentinel_username or sentinel_password_file of the "
                    f"URL, or wants them ({failure})"
                )
                continue
            except (ResponseError, InvalidResponse) as failure:
                wrong.append(f"{place} is no Sentinel ({failure})")
                continue
            except redis.RedisError as failure:
                untrusted = isinstance(failure.__context__, ssl.SSLCertVerificationError)
                (wrong if untrusted else silent).append(f"{place}: {failure}")
                continue
            if found:
                # the one that responds is asked first from now on
                self.sentinels = [asked, *(one for one in self.sentinels if one is not asked)]
                return cast("tuple[str, int]", found)
            wrong.append(f"{place} knows no {service_name}")
        if wrong:
            raise PrimaryNotFound("; ".join(wrong))
        raise MasterNotFoundError(f"no Sentinel answers: {'; '.join(silent)}")


class _PrimaryConnection(SentinelManagedConnection):
    """Rejects a server that is not a primary, even if the Sentinels name it."""

    def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        if retry_socket_connect:
            # A connection that broke during a command: redis-py would retry the old address.
            self.connect()  # type: ignore[no-untyped-call]
        else:
            super().connect_check_health(check_health, retry_socket_connect=False)

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        try:
            super().on_connect_check_health(check_health)
            self.send_command("ROLE", check_health=False)  # type: ignore[no-untyped-call]
            role = self.read_response()[0]
        except InvalidResponse:
            raise PrimaryNotFound(f"{self.host}:{self.port} is no Redis") from None
        if role not in (b"master", "master"):
            raise PrimaryNotFound(f"{self.host}:{self.port} is a replica")


class _PrimarySSLConnection(_PrimaryConnection, SSLConnection):
    pass


def is_sentinel(url: str) -> bool:
    """True if a URL names Sentinels."""
    return urlsplit(url).scheme in ("redis+sentinel", "rediss+sentinel")


def client_from_url(url: str, **options: Any) -> redis.Redis:
    """Create a client of the primary that the Sentinels name. Does not connect.

    User, password, database and the parameters of the URL are those of the primary, but
    `sentinel_username` and `sentinel_password_file`; with `rediss+sentinel://` the Sentinels use
    TLS too.

    Raises:
        ValueError: the URL has another form.
        ConfigurationInvalid: the file of the password cannot be read.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    name, _, db = parts.path.strip("/").partition("/")
    if not hosts or not name or not (db or "0").isdecimal():
        raise ValueError(f"the form is {_FORM}")
    scheme = parts.scheme.removesuffix("+sentinel")
    plain = parts._replace(scheme=scheme, netloc=f"{credentials}@", path=f"/{db or 0}").geturl()
    chosen = parse_url(plain)  # type: ignore[no-untyped-call]
    chosen.pop("connection_class", None)
    encrypted = {"ssl": True} if scheme == "rediss" else {}
    encrypted |= {word: value for word, value in chosen.items() if word.startswith("ssl_")}
    own = {"username": chosen.pop("sentinel_username", None)}
    if file := chosen.pop("sentinel_password_file", None):
        own["password"] = read_password(Path(file), "GDSR_REDIS_URL: sentinel_password_file")
    sentinels = _Sentinels(  # type: ignore[no-untyped-call]
        [_address(host) for host in hosts.split(",")],
        sentinel_kwargs={
            "socket_timeout": _SENTINEL_SECONDS,
            "socket_connect_timeout": _SENTINEL_SECONDS,
            "retry": None,
            "decode_responses": True,
            **own,
            **encrypted,
        },
    )
    kind = _PrimarySSLConnection if encrypted else _PrimaryConnection
    settings = {**options, **chosen, "connection_class": kind}
    pool = SentinelConnectionPool(name, sentinels, **settings)  # type: ignore[no-untyped-call]
    return redis.Redis.from_pool(pool)


def _address(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError(f"{place!r} is not an address; the form is {_FORM}")
    return parts.hostname, parts.port or _PORT


def replicated(client: redis.Redis, write: Callable[[redis.Redis], object]) -> Any:
    """Run one command; behind Sentinels, wait until a replica has what it wrote.

    A mark is written after it on the same connection: a replica that has the mark has everything
    before it, also what an earlier attempt wrote.

    Raises:
        NotReplicated: no replica confirmed it within a second.
    """
    if not isinstance(client.connection_pool, SentinelConnectionPool):
        return write(client)
    with client.pipeline(transaction=False) as pipe:
        write(pipe)
        pipe.set(_MARK, "", ex=60)
        pipe.wait(1, _REPLICA_MILLISECONDS)
        # its error unchanged: a pipeline would prefix the message
        answer, *confirmation = pipe.execute(raise_on_error=False)
    if isinstance(answer, Exception):
        raise answer
    # a server that refuses the mark has still executed the command
    if any(isinstance(reply, Exception) for reply in confirmation) or confirmation[1] < 1:
        raise NotReplicated("no replica confirmed the write")
    return answer
