"""Rate limits per API key. The counters are in Redis, so all instances share them.

The request rate uses a sliding window, so a client cannot send twice the rate around a window
boundary. The pixel quota is a fixed window of one UTC day, counted in the transaction that queues
the job.
"""

import math
import time
from datetime import timedelta

import redis
from limits import parse_many
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from workers.contract.errors import BatchTooLarge, ConfigurationInvalid, RateExceeded
from workers.contract.queue.admission import pixels_today, until_midnight
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.queue import JobQueue


class RateLimit:
    """The request rates, the same for each key; none if none is set."""

    def __init__(self, rates: str | None, client: redis.Redis) -> None:
        """Does not connect to Redis.

        Raises:
            ConfigurationInvalid: the setting is not a rate.
        """
        try:
            self.items = parse_many(rates) if rates is not None else []
        except ValueError:
            raise ConfigurationInvalid(
                f"GDSR_RATE_LIMIT: {rates!r} is not a rate such as 60/minute"
            ) from None
        self.limiter = SlidingWindowCounterRateLimiter(
            RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="gdsr:rate")
        )

    def count(self, owner: str, pictures: int = 1, *, counted: int = 0) -> dict[str, str]:
        """Count `pictures` uploads, of which some are `counted`, if every rate allows them.

        Returns the `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers), if there is a rate.

        Raises:
            BatchTooLarge: a rate never allows so many.
            RateExceeded: a rate does not allow them now.
            QueueUnavailable: Redis does not answer.
        """
        if not self.items:
            return {}
        least = min(self.items, key=lambda item: item.amount)
        if pictures > max(1, least.amount):
            period = f"in {least.multiples} {least.GRANULARITY.name}"
            raise BatchTooLarge(limit=least.amount, of="pictures", per=period, name="rate_limit")
        cost = pictures - counted
        with translated_redis_errors():
            spent = [i for i in self.items if not self.limiter.test(i, owner, cost=cost)]
            if not spent:  # or a concurrent request used the rest
                spent = [i for i in self.items if not self.limiter.hit(i, owner, cost=cost)]
            stats = {item: self.limiter.get_window_stats(item, owner) for item in self.items}
        pauses = {
            item: max(1, math.ceil(window.reset_time - time.time()))
            for item, window in stats.items()
        }
        if spent:
            slowest = max(spent, key=lambda item: pauses[item])
            raise RateExceeded(rate=str(slowest), pause=timedelta(seconds=pauses[slowest]))
        scarce = min(self.items, key=lambda item: stats[item].remaining)
        return {
            "RateLimit-Policy": f'"uploads";q={scarce.amount};w={scarce.get_expiry()}',
            "RateLimit": f'"uploads";r={stats[scarce].remaining};t={pauses[scarce]}',
        }


def pixel_headers(queue: JobQueue, owner: str, limit: int) -> dict[str, str]:
    """The `RateLimit` headers of the owner's quota of `limit` pixels a day.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated_redis_errors():
        left = max(0, limit - pixels_today(queue.client, owner))
    pause = int(until_midnight().total_seconds())
    return {
        "RateLimit-Policy": f'"pixels";q={limit};w=86400',
        "RateLimit": f'"pixels";r={left};t={pause}',
    }
