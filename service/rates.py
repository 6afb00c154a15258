"""How much one API key may send; the counts are in Redis, so all instances share them.

The window of the rate slides: no burst of twice the rate around the turn of a minute. Pixels are
counted from midnight to midnight (UTC), in the step that queues a job.
"""

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import redis
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.settings import ServiceSettings
from workers.contract.admission import pixels_today, until_midnight
from workers.contract.connection import redis_down_is_queue_unavailable
from workers.contract.errors import ConfigurationInvalid, RateExceeded
from workers.contract.queue import JobQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """One rate for each key."""

    item: RateLimitItem
    limiter: SlidingWindowCounterRateLimiter

    @classmethod
    def open(cls, settings: ServiceSettings, client: redis.Redis) -> Self | None:
        """The rate of the settings, if there is one; Redis is not asked for anything yet.

        Raises:
            ConfigurationInvalid: it is not a rate.
        """
        if settings.rate_limit is None:
            return None
        try:
            item = parse(settings.rate_limit)
        except ValueError:
            raise ConfigurationInvalid(
                f"GDSR_RATE_LIMIT: {settings.rate_limit!r} is not a rate such as 60/minute"
            ) from None
        storage = RedisStorage(
            settings.redis_url, connection_pool=client.connection_pool, key_prefix="gdsr:rate"
        )
        return cls(item=item, limiter=SlidingWindowCounterRateLimiter(storage))

    def count(self, owner: str, *, pictures: int = 1) -> dict[str, str]:
        """Count an upload of so many pictures; the headers that say what is left.

        Raises:
            RateExceeded: there were enough.
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            allowed = self.limiter.hit(self.item, owner, cost=pictures)
            stats = self.limiter.get_window_stats(self.item, owner)
        pause = max(1, math.ceil(stats.reset_time - time.time()))
        if not allowed:
            raise RateExceeded(rate=str(self.item), pause=timedelta(seconds=pause))
        return rate_headers(self.item, remaining=stats.remaining, pause=pause)


def pixel_headers(queue: JobQueue, owner: str) -> dict[str, str]:
    """What is left of the owner's pixels today, if they are counted.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    limit = queue.bounds.pixels_per_day
    if limit is None:
        return {}
    with redis_down_is_queue_unavailable():
        left = max(0, limit - pixels_today(queue.client, owner))
    pause = int(until_midnight().total_seconds())
    return {
        "RateLimit-Policy": f'"pixels";q={limit};w=86400',
        "RateLimit": f'"pixels";r={left};t={pause}',
    }


def rate_headers(item: RateLimitItem, *, remaining: int, pause: int) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers."""
    return {
        "RateLimit-Policy": f'"uploads";q={item.amount};w={item.get_expiry()}',
        "RateLimit": f'"uploads";r={remaining};t={pause}',
    }
