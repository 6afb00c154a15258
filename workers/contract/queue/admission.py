"""Admission control: checks the queue limits and enqueues in one atomic step.

The writes are collected in a pipeline and passed to a Lua script, which executes all or none of
them: concurrent services cannot both take the last slot, and nothing is half-accepted. One of the
keys written tells whether the script has run: a retry after a lost reply writes nothing.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from workers.contract.errors import BatchTooLarge, PixelsExceeded, QueueFull
from workers.contract.queue.connection import REPLY_LOST
from workers.contract.queue.engines import running
from workers.contract.queue.estimates import speed
from workers.contract.queue.runs import WAITING
from workers.contract.sentinel import replicated

_DAY = timedelta(days=1)
#: `Retry-After` of a rejected client while no engine runs, and the maximum.
_BLIND_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
#: Repeats after a lost reply, at most three with a pause of 0.1 s: a client without an idempotency
#: key that gets no answer would send its picture again.
_REPEATS = Retry(ConstantBackoff(0.1), 2, supported_errors=(redis.RedisError,))

_ADMIT = """
if redis.call('exists', unpack(KEYS, 4)) > 0 then return {'exists', 0, 0} end
local mine = tonumber(ARGV[4])
local jobs, pixels = redis.call('hlen', KEYS[1]), 0
for _, waiting in ipairs(redis.call('hvals', KEYS[1])) do pixels = pixels + waiting end
if ARGV[7] ~= '' and redis.call('hget', KEYS[3], 'run') ~= ARGV[7] then
  return {'superseded', jobs, pixels}
end
if jobs + ARGV[6] > math.max(jobs, tonumber(ARGV[1])) then return {'jobs', jobs, pixels} end
if mine > 0 and pixels + mine > tonumber(ARGV[2]) then return {'pixels', jobs, pixels} end
local today = tonumber(redis.call('get', KEYS[2]) or 0) + mine
if ARGV[3] ~= '' and mine > 0 and today > tonumber(ARGV[3]) then return {'day', jobs, pixels} end
local at = 8
while at <= #ARGV do
  local last = at + ARGV[at]
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
if ARGV[3] ~= '' then
  redis.call('incrby', KEYS[2], ARGV[4])
  redis.call('expire', KEYS[2], ARGV[5])
end
return {'admitted', jobs, pixels}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Limits of the queue and the pixel quota of an owner."""

    jobs: int
    pixels: int
    """Total input pixels of queued pictures."""
    pixels_per_day: int | None = None
    """Input pixels of one owner per UTC day; None: unlimited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Jobs and pixels to be queued in one step."""

    owner: str
    pixels: int = 0
    jobs: int = 1


class Superseded(Exception):
    """The task was taken by another run, or deleted."""


def admit(
    client: redis.Redis,
    pipe: "redis.client.Pipeline",
    load: Load,
    bounds: QueueLimits,
    *,
    unless: Sequence[str],
    hash_key: str = "",
    run: str = "",
) -> bool:
    """Execute the pipeline if the load fits into the limits; counts its pixels against the quota.

    Returns False if one of the keys `unless`, which the pipeline writes, existed before. With
    `run`, the hash `hash_key` still has to name that run.

    Raises:
        BatchTooLarge: the load alone exceeds a limit.
        QueueFull: the queue limit is reached.
        PixelsExceeded: the owner's pixel quota is exceeded.
        Superseded: the run has ended.
    """
    commands: list[Any] = []
    for arguments, _ in pipe.command_stack:
        commands += [len(arguments), *arguments]
    pipe.reset()
    daily = bounds.pixels_per_day
    script_call = (
        _ADMIT,
        3 + len(unless),
        WAITING,
        _day_key(load.owner),
        hash_key or unless[0],  # unused without a run; an ACL allows no empty key
        *unless,
        bounds.jobs,
        bounds.pixels,
        "" if daily is None else daily,
        load.pixels,
        int(2 * _DAY.total_seconds()),
        load.jobs,
        run,
        *commands,
    )

    def ask() -> Any:
        return replicated(client, lambda to: to.eval(*script_call))

    try:
        verdict, jobs, pixels = ask()
    except REPLY_LOST:
        verdict = b""
        with suppress(redis.RedisError):
            verdict, jobs, pixels = _REPEATS.call_with_retry(ask, lambda _: None)
        # a refusal of the repeat; the first call may still be executed
        if verdict not in (b"admitted", b"exists"):
            raise
    match verdict:
        case b"jobs" if load.jobs > bounds.jobs:
            raise BatchTooLarge(
                limit=bounds.jobs, of="pictures", per="in the queue", name="max_queued_jobs"
            )
        case b"pixels" if load.pixels > bounds.pixels:
            raise BatchTooLarge(
                limit=bounds.pixels, of="pixels", per="in the queue", name="max_queued_pixels"
            )
        case b"day" if load.pixels > int(daily or 0):
            raise BatchTooLarge(
                limit=int(daily or 0), of="pixels", per="a day", name="pixels_per_day"
            )
        case b"jobs":  # slots are free when as many waiting jobs of average size have started
            pause = _pause(client, load.jobs * pixels / max(1, jobs))
            raise QueueFull(limit=bounds.jobs, of="jobs", pause=pause)
        case b"pixels":
            pause = _pause(client, pixels + load.pixels - bounds.pixels)
            raise QueueFull(limit=bounds.pixels, of="pixels", pause=pause)
        case b"superseded":
            raise Superseded
        case b"day":
            raise PixelsExceeded(limit=int(daily or 0), pause=until_midnight())
    return bool(verdict == b"admitted")


def shortage(client: redis.Redis, bounds: QueueLimits) -> QueueFull | None:
    """Error while the queue is full, to retry when an average job has left it; None otherwise."""
    waiting = [int(pixels) for pixels in client.hvals(WAITING)]
    if len(waiting) < bounds.jobs and sum(waiting) < bounds.pixels:
        return None
    pause = _pause(client, sum(waiting) / max(1, len(waiting)))
    if len(waiting) >= bounds.jobs:
        return QueueFull(limit=bounds.jobs, of="jobs", pause=pause)
    return QueueFull(limit=bounds.pixels, of="pixels", pause=pause)


def pixels_today(client: redis.Redis, owner: str) -> int:
    """Input pixels of an owner since midnight (UTC); counted only if there is a quota."""
    return int(client.get(_day_key(owner)) or 0)


def until_midnight() -> timedelta:
    """Time until midnight UTC, in whole seconds, at least one."""
    now = datetime.now(UTC)
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
    return timedelta(seconds=math.ceil((tomorrow - now).total_seconds()))


def _pause(client: redis.Redis, pixels: float) -> timedelta:
    """Estimated time of the running engines for this many pixels."""
    rate = speed(running(client))
    if not rate:
        return _BLIND_PAUSE
    return min(timedelta(seconds=max(1, math.ceil(pixels / rate))), _LONGEST_PAUSE)


def _day_key(owner: str) -> str:
    return f"gdsr:pixels:{datetime.now(UTC):%Y-%m-%d}:{owner}"
