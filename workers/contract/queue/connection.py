"""The Redis connection: timeouts, retries, and the mapping of failures to our errors."""

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq.timeouts import JobTimeoutException

from workers.contract import sentinel
from workers.contract.errors import ConfigurationInvalid, QueueUnavailable

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
#: Errors after which a command may have been executed: only its reply was lost.
REPLY_LOST = (redis.ConnectionError, redis.TimeoutError)
#: Errors of a server that is full, a replica, or cannot write its file: temporary.
_TEMPORARY = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_TRANSIENT_ERRORS = (
    "OOM", "READONLY", "MISCONF", "MASTERDOWN", "NOREPLICAS", "LOADING", "BUSY ", "UNBLOCKED",
)  # fmt: skip


#: Timeouts for a connection and for a response at startup, in seconds.
_CONNECT_SECONDS = 2
#: Backoff in seconds after the regular retries, initially and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
#: Minimum seconds between two log lines about the same outage.
_LOG_INTERVAL = 60.0


class _RetryWhileUnavailable(Retry):
    """Retries while Redis is down, full, read-only, or cannot write its file: forever, or until the
    time limit of a job, and then raises an error that is not retried.
    """

    logged_at = float("-inf")  # on the class: each connection has a copy of the object

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - as redis has it
    ) -> Any:
        pause, failed = _FIRST_PAUSE, False

        def noted(*failure: Any) -> None:
            nonlocal failed
            failed = True
            fail(*failure)

        try:
            while True:
                try:
                    return super().call_with_retry(do, noted, is_retryable, with_failure_count)
                except (*REPLY_LOST, redis.ResponseError) as failure:
                    if not is_temporary(failure):
                        raise
                    failed = True
                    if time.monotonic() >= _RetryWhileUnavailable.logged_at + _LOG_INTERVAL:
                        _RetryWhileUnavailable.logged_at = time.monotonic()
                        log.warning("Redis is unavailable, retrying: %s", failure)
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except JobTimeoutException:
            if not failed:
                raise
            # not the fault of the job: an error that nobody retries ends its run alone
            raise redis.RedisError("Redis was unavailable until the time limit") from None


def is_temporary(failure: Exception) -> bool:
    """True if a failure is due to the state of Redis and not to the command."""
    if isinstance(failure, redis.AuthenticationError):
        return False
    if isinstance(failure, (*REPLY_LOST, *_TEMPORARY)):
        return True
    return str(failure).startswith(_TRANSIENT_ERRORS)


def connect(
    url: str,
    *,
    timeout: timedelta,
    retries: int,
    pause: timedelta = timedelta(seconds=0.2),
    retry_forever: bool = False,
) -> redis.Redis:
    """Create a Redis client with timeouts and retries; `redis.Redis.from_url` alone does not retry.

    With `retry_forever` it retries while Redis is unavailable, and logs that at most once a minute.
    """
    kind = _RetryWhileUnavailable if retry_forever else Retry
    open_client = sentinel.client_from_url if sentinel.is_sentinel(url) else redis.Redis.from_url
    return open_client(
        url,
        socket_timeout=timeout.total_seconds(),
        socket_connect_timeout=_CONNECT_SECONDS,
        retry=kind(ConstantBackoff(pause.total_seconds()), retries),
        driver_info=None,  # client library name, sent on each connection
    )


def check_at_start(url: str) -> None:
    """Connect once at startup. A refusal stops startup; a missing response is only logged, as Redis
    may start later.

    Raises:
        ConfigurationInvalid: the URL is invalid, Redis is a cluster, the password is missing or
            wrong, the user may do too little, TLS fails, or Sentinels name no primary.
    """
    place = urlsplit(url).netloc.rpartition("@")[2] or urlsplit(url).path
    for name, value in parse_qsl(urlsplit(url).query):
        if name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") and not Path(value).is_file():
            raise ConfigurationInvalid(f"GDSR_REDIS_URL: {name}: there is no file {value}")
    try:
        with connect(url, timeout=timedelta(seconds=_CONNECT_SECONDS), retries=0) as client:
            client.ping()
            cluster = client.info("cluster").get("cluster_enabled")
            replication = client.info("replication")
    except ValueError as failure:
        raise ConfigurationInvalid(f"GDSR_REDIS_URL: {failure}") from None
    except TypeError as failure:  # parameters of the URL are arguments of a connection
        name = str(failure).rpartition("keyword argument ")[2]
        raise ConfigurationInvalid(f"GDSR_REDIS_URL: unknown parameter {name}") from None
    except redis.RedisError as failure:
        if refusal := _refusal(failure, url):
            raise ConfigurationInvalid(f"Redis at {place} {refusal}") from None
        log.warning("Redis at %s does not answer yet, retrying: %s", place, failure)
        return
    if cluster:
        raise ConfigurationInvalid(
            f"Redis at {place} is a cluster, but queue and records need one server that "
            "holds all keys; set GDSR_REDIS_URL to a server that is not part of a "
            "cluster"
        )
    if sentinel.is_sentinel(url) and "min_slaves_good_slaves" not in replication:
        log.warning("Redis at %s: min-replicas-to-write is 0, docs/operations.md asks for 1", place)


def _refusal(failure: redis.RedisError, url: str) -> str:
    """The reason why waiting does not help; empty if it may."""
    if isinstance(failure, redis.AuthenticationError):
        wrong = "rejects the password" if urlsplit(url).password else "requires a password"
        return f"{wrong}; put the right one into the file that GDSR_REDIS_PASSWORD_FILE names"
    if isinstance(failure, redis.exceptions.NoPermissionError):
        return f"allows its user too little ({failure}); docs/operations.md has the ACL rules"
    if isinstance(failure, sentinel.PrimaryNotFound):
        return f"cannot be used: {failure}"
    if not isinstance(failure, (*REPLY_LOST, redis.ResponseError)):
        return f"cannot be used with this URL: {failure}"
    cause = failure.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return f"cannot be reached over TLS: {cause.reason}"
    return ""


def retry_once(ask: Callable[[], Reply]) -> Reply:
    """Run an idempotent script; retried once if its reply is lost."""
    try:
        return ask()
    except REPLY_LOST:
        return ask()


@contextmanager
def translated_redis_errors() -> Iterator[None]:
    """Raise QueueUnavailable for failures of the Redis client."""
    try:
        yield
    except redis.RedisError as failure:
        refused = not isinstance(failure, REPLY_LOST)
        raise QueueUnavailable(reason(failure), refused=refused) from failure


def reason(failure: redis.RedisError) -> str:
    """Short description of a Redis failure."""
    if isinstance(failure, redis.exceptions.OutOfMemoryError):
        return "it is full"
    if isinstance(failure, redis.exceptions.ReadOnlyError):
        return "it is read-only"
    if str(failure).startswith("MISCONF"):
        return "it cannot write its file"
    return type(failure).__name__


def as_text(value: bytes | str) -> str:
    """A reply of Redis as text: clients may or may not decode replies."""
    return value.decode() if isinstance(value, bytes) else value
