"""Rate limits per API key. The counters are in Redis, so all instances share them.

The request rate uses a sliding window, so a client cannot send twice the rate around a window
boundary. Uploads are counted before they are read, and given back if the service has no room for
them. The pixel quota is a fixed window of one UTC day, counted in the transaction that queues the
job.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import redis
from limits import parse_many
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from workers.contract import errors
from workers.contract.queue.admission import pixels_today, until_midnight
from workers.contract.queue.batches import Batch
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.queue import JobQueue

#: The current window becomes the previous one when it is as old as it is long; its key lives twice
#: as long. Uploads that are older than both no longer count.
_GIVE_BACK = """
local length, ago = tonumber(ARGV[2]), tonumber(ARGV[3])
local age = 2 * length - redis.call('pttl', KEYS[1])
if ago > age + length then return end
local window = ago <= age and KEYS[1] or KEYS[2]
local count = tonumber(redis.call('get', window) or 0)
if count > 0 then redis.call('incrby', window, -math.min(count, ARGV[1])) end
"""


class Counted(NamedTuple):
    """Uploads that were counted against the rates."""

    owner: str
    uploads: int
    at: float
    """Monotonic time in seconds."""
    headers: dict[str, str]
    """The `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers), if there is a rate."""


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
            raise errors.ConfigurationInvalid(
                f"GDSR_RATE_LIMIT: {rates!r} is not a rate such as 60/minute"
            ) from None
        self.client = client
        self.limiter = SlidingWindowCounterRateLimiter(
            RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="gdsr:rate")
        )

    def count(self, owner: str, pictures: int = 1, *, counted: int = 0) -> Counted:
        """Count `pictures` uploads, of which some are `counted`, if every rate allows them.

        Raises:
            BatchTooLarge: a rate never allows so many.
            RateExceeded: a rate does not allow them now.
        """
        if not self.items:
            return Counted(owner, 0, 0, {})
        least = min(self.items, key=lambda item: item.amount)
        if pictures > max(1, least.amount):
            period = f"in {least.multiples} {least.GRANULARITY.name}"
            raise errors.BatchTooLarge(
                limit=least.amount, of="pictures", per=period, name="rate_limit"
            )
        cost = pictures - counted
        with translated_redis_errors():
            spent = [i for i in self.items if not self.limiter.test(i, owner, cost=cost)]
            if not spent:  # or a concurrent request used the rest
                spent = [i for i in self.items if not self.limiter.hit(i, owner, cost=cost)]
            at = time.monotonic()
            stats = {item: self.limiter.get_window_stats(item, owner) for item in self.items}
        pauses = {
            item: max(1, math.ceil(window.reset_time - time.time()))
            for item, window in stats.items()
        }
        if spent:
            slowest = max(spent, key=lambda item: pauses[item])
            raise errors.RateExceeded(rate=str(slowest), pause=timedelta(seconds=pauses[slowest]))
        scarce = min(self.items, key=lambda item: stats[item].remaining)
        headers = {
            "RateLimit-Policy": f'"uploads";q={scarce.amount};w={scarce.get_expiry()}',
            "RateLimit": f'"uploads";r={stats[scarce].remaining};t={pauses[scarce]}',
        }
        return Counted(owner, cost, at, headers)

    @contextmanager
    def given_back_without_room(self, counted: Counted) -> Iterator[None]:
        """Give the uploads back if the block finds the queue full, or no worker."""
        try:
            yield
        except (errors.QueueFull, errors.NoWorker):
            self.give_back(counted)
            raise

    def give_back(self, counted: Counted) -> None:
        """Give uploads back; they count if Redis does not answer."""
        ago = int(1000 * (time.monotonic() - counted.at))
        for item in self.items if counted.uploads else ():
            window = f"gdsr:rate:{{{item.key_for(counted.owner)}}}"  # names of the library
            keys = (window, f"{window}/-1")
            length = 1000 * item.get_expiry()
            with suppress(redis.RedisError):
                self.client.eval(_GIVE_BACK, len(keys), *keys, counted.uploads, length, ago)

    def give_back_batch(self, batch: Batch) -> None:
        """Give a batch's uploads back, once, if unpacking found the queue full or no worker."""
        refusal = batch.failure and batch.failure.slug
        if not self.items or refusal not in (errors.QueueFull.slug, errors.NoWorker.slug):
            return
        window = max(item.get_expiry() for item in self.items)
        with suppress(redis.RedisError):
            # after two windows they do not count any more
            if self.client.set(f"gdsr:rate:given-back:{batch.id}", 1, nx=True, ex=2 * window):
                ago = datetime.now(UTC) - batch.spec.created_at
                at = time.monotonic() - ago.total_seconds()
                self.give_back(Counted(batch.spec.owner, batch.spec.pictures, at, {}))


def pixel_headers(queue: JobQueue, owner: str, limit: int) -> dict[str, str]:
    """The `RateLimit` headers of the owner's quota of `limit` pixels a day."""
    with translated_redis_errors():
        left = max(0, limit - pixels_today(queue.client, owner))
    pause = int(until_midnight().total_seconds())
    return {
        "RateLimit-Policy": f'"pixels";q={limit};w=86400',
        "RateLimit": f'"pixels";r={left};t={pause}',
    }
