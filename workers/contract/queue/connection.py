"""The connection to Redis, and what it means when it fails."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from workers.contract.errors import ConfigurationInvalid, QueueUnavailable

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
#: A command that ends so may have been executed: it is its reply that did not come.
REPLY_LOST = (redis.ConnectionError, redis.TimeoutError)
#: What a server says that is full, a replica, or cannot write its file; it may be cured.
_PASSING = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_PASSING_WORDS = (
    "OOM", "READONLY", "MISCONF", "MASTERDOWN", "NOREPLICAS", "LOADING", "BUSY ", "UNBLOCKED",
)  # fmt: skip


#: Seconds between two attempts once the retries are used up, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
#: Seconds between two words in the log of a process on what does not change.
_SAY_AGAIN = 60.0


class _UntilCured(Retry):
    """Asks on for ever while Redis is away, full, read-only, or has no room for its file."""

    said_at = float("-inf")  # of the class: each connection has a copy of the object

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - as redis has it
    ) -> Any:
        pause = _FIRST_PAUSE
        while True:
            try:
                return super().call_with_retry(do, fail, is_retryable, with_failure_count)
            except (*REPLY_LOST, redis.ResponseError) as failure:
                if not passes(failure):
                    raise
                if time.monotonic() >= _UntilCured.said_at + _SAY_AGAIN:
                    _UntilCured.said_at = time.monotonic()
                    log.warning("Redis does not do its work, asking on: %s", failure)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def passes(failure: Exception) -> bool:
    """Whether what Redis said is about its state, and not about what was asked."""
    if isinstance(failure, redis.AuthenticationError):
        return False
    if isinstance(failure, (*REPLY_LOST, *_PASSING)):
        return True
    return str(failure).startswith(_PASSING_WORDS)


def connect(
    url: str,
    *,
    timeout: timedelta,
    retries: int,
    pause: timedelta = timedelta(seconds=0.2),
    until_cured: bool = False,
) -> redis.Redis:
    """A Redis client with stated limits; `redis.Redis.from_url` alone retries nothing.

    With `until_cured` it waits for as long as Redis cannot do its work, and says so in the log, at
    most once a minute.
    """
    kind = _UntilCured if until_cured else Retry
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout.total_seconds(),
        socket_connect_timeout=2,
        retry=kind(ConstantBackoff(pause.total_seconds()), retries),
        driver_info=None,  # a name of the library, told to the server on each connection
    )


def check_at_start(url: str) -> None:
    """Ask Redis once: a refusal ends the start, silence is logged, since it may still come.

    Raises:
        ConfigurationInvalid: the URL is not one, or Redis is a cluster, or refuses the
            password, or wants one.
    """
    parts = urlsplit(url)
    place = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or parts.path
    try:
        with connect(url, timeout=timedelta(seconds=2), retries=0) as client:
            client.ping()
            cluster = client.info("cluster").get("cluster_enabled")
    except ValueError as failure:
        raise ConfigurationInvalid(f"GDSR_REDIS_URL: {failure}") from None
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
        wrong = "refuses the password" if parts.password else "wants a password"
        raise ConfigurationInvalid(
            f"Redis at {place} {wrong}; "
            "put the right one into the file that GDSR_REDIS_PASSWORD_FILE names"
        ) from None
    except redis.RedisError as failure:
        log.warning("Redis at %s does not answer yet, asking on: %s", place, failure)
    else:
        if cluster:
            raise ConfigurationInvalid(
                f"Redis at {place} is a cluster: queue and records need one server that holds all "
                "keys; give GDSR_REDIS_URL one that is not part of a cluster"
            )


def asked_twice(ask: Callable[[], Reply]) -> Reply:
    """The reply to a script that answers its own repeat: asked once more when that is lost."""
    try:
        return ask()
    except REPLY_LOST:
        return ask()


@contextmanager
def redis_down_is_queue_unavailable() -> Iterator[None]:
    """Turn what the Redis client says of a dead, slow or full server into our error."""
    try:
        yield
    except redis.RedisError as failure:
        refused = not isinstance(failure, REPLY_LOST)
        raise QueueUnavailable(reason(failure), refused=refused) from failure


def reason(failure: redis.RedisError) -> str:
    """Why Redis did not do what it was asked, in a few words."""
    if isinstance(failure, redis.exceptions.OutOfMemoryError):
        return "it is full"
    if isinstance(failure, redis.exceptions.ReadOnlyError):
        return "it is read-only"
    if str(failure).startswith("MISCONF"):
        return "it cannot write its file"
    return type(failure).__name__
