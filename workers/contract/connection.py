"""The connection to Redis, and what it means when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from workers.contract.errors import QueueUnavailable


def connect(
    url: str, *, timeout: timedelta, retries: int, pause: timedelta = timedelta(seconds=0.2)
) -> redis.Redis:
    """A Redis client with stated limits; `redis.Redis.from_url` alone retries nothing."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout.total_seconds(),
        socket_connect_timeout=2,
        retry=Retry(ConstantBackoff(pause.total_seconds()), retries),
    )


@contextmanager
def redis_down_is_queue_unavailable() -> Iterator[None]:
    """Turn what the Redis client says of a dead, slow or full server into our error."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as failure:
        raise QueueUnavailable("it is full") from failure
    except redis.RedisError as failure:
        raise QueueUnavailable(type(failure).__name__) from failure
