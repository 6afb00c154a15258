"""Outbox of pending webhooks in Redis.

The transition that ends a job adds its id to a sorted set, in the same step, with the time of the
first attempt. A deliverer that takes an id moves its time past the longest attempt, so if it dies
another one takes over. Delivery is at least once.
"""

from datetime import timedelta
from typing import Literal

import redis

#: Ids of jobs by the time of the next attempt, in seconds of the clock of Redis.
DUE = "gdsr:webhooks"
#: Webhook fields of the job record.
WebhookState = Literal["waiting", "delivered", "failed"]

_CLAIM = """
local now = redis.call('time')
local due = redis.call('zrangebyscore', KEYS[1], '-inf', now[1], 'limit', 0, 1)[1]
if due then redis.call('zadd', KEYS[1], now[1] + ARGV[1], due) end
return due
"""
_RECORD_ATTEMPT = """
if ARGV[4] == '' or redis.call('exists', KEYS[2]) == 0 then redis.call('zrem', KEYS[1], ARGV[1])
else redis.call('zadd', KEYS[1], 'xx', redis.call('time')[1] + ARGV[4], ARGV[1]) end
if redis.call('exists', KEYS[2]) == 1 then
  redis.call('hset', KEYS[2], 'webhook_state', ARGV[2], 'webhook_answer', ARGV[3])
  redis.call('hincrby', KEYS[2], 'webhook_attempts', 1)
end
"""


class WebhookQueue:
    """The outbox, for deliverers in any number of processes."""

    def __init__(self, client: redis.Redis, *, lease: timedelta) -> None:
        """`lease`: longer than any attempt."""
        self.client, self._lease = client, lease

    def claim(self) -> str | None:
        """Take a job whose webhook is due and lease it; None if there is none."""
        found = self.client.eval(_CLAIM, 1, DUE, self._lease.total_seconds())
        return None if found is None else found.decode()

    def settle(
        self, job_id: str, state: WebhookState, *, answer: str, pause: timedelta | None = None
    ) -> None:
        """Record the outcome of an attempt; with a `pause` there will be another."""
        seconds = "" if pause is None else pause.total_seconds()
        keys = (DUE, f"gdsr:job:{job_id}")
        self.client.eval(_RECORD_ATTEMPT, len(keys), *keys, job_id, state, answer, seconds)

    def forget(self, job_id: str) -> None:
        """Remove a job whose record is gone."""
        self.client.zrem(DUE, job_id)


def waiting(client: redis.Redis) -> int:
    """Number of ended jobs with a pending webhook."""
    return int(client.zcard(DUE))
