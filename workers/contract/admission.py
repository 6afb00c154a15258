"""Whether there is room for one more job; looking and queueing are one step.

What is to be written is collected in a pipeline and handed to a Lua script, which writes all of it
or nothing: two services cannot both take the last place, and nothing is half-accepted.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from workers.contract.engines import running
from workers.contract.errors import PixelsExceeded, QueueFull
from workers.contract.estimates import speed
from workers.contract.jobs import JobSpec
from workers.contract.records import WAITING

_DAY = timedelta(days=1)
#: What a refused client is told to wait while no engine runs, and at most.
_BLIND_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)

_ADMIT = """
local mine = tonumber(ARGV[4])
local jobs, pixels = redis.call('hlen', KEYS[1]), 0
for _, waiting in ipairs(redis.call('hvals', KEYS[1])) do pixels = pixels + waiting end
if jobs >= tonumber(ARGV[1]) then return {'jobs', jobs, pixels} end
if pixels + mine > tonumber(ARGV[2]) then return {'pixels', jobs, pixels} end
local today = tonumber(redis.call('get', KEYS[2]) or 0) + mine
if ARGV[3] ~= '' and today > tonumber(ARGV[3]) then return {'day', jobs, pixels} end
local at = 6
while at <= #ARGV do
  local last = at + ARGV[at]
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
if ARGV[3] ~= '' then
  redis.call('incrby', KEYS[2], ARGV[4])
  redis.call('expire', KEYS[2], ARGV[5])
end
return {'taken', jobs, pixels}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may wait, and how much one owner may send."""

    jobs: int
    pixels: int
    """Of all pictures that wait, before scaling."""
    pixels_per_day: int | None = None
    """Of one owner's pictures, from one midnight (UTC) to the next; None: any number."""


def admit(
    client: redis.Redis, pipe: "redis.client.Pipeline", spec: JobSpec, bounds: Bounds
) -> None:
    """Run what the pipeline holds if the job fits into the bounds; its pixels count as taken.

    Raises:
        QueueFull: too many jobs or pixels wait.
        PixelsExceeded: the owner has sent enough for today.
    """
    commands: list[Any] = []
    for arguments, _ in pipe.command_stack:
        commands += [len(arguments), *arguments]
    pipe.reset()
    daily = bounds.pixels_per_day
    verdict, jobs, pixels = client.eval(
        _ADMIT,
        2,
        WAITING,
        _day_key(spec.owner),
        bounds.jobs,
        bounds.pixels,
        "" if daily is None else daily,
        spec.pixels,
        int(2 * _DAY.total_seconds()),
        *commands,
    )
    match verdict:
        case b"jobs":  # a place is free when one of them, as large as most, has begun
            pause = _pause(client, pixels / max(1, jobs))
            raise QueueFull(limit=bounds.jobs, of="jobs", pause=pause)
        case b"pixels":
            pause = _pause(client, pixels + spec.pixels - bounds.pixels)
            raise QueueFull(limit=bounds.pixels, of="pixels", pause=pause)
        case b"day":
            raise PixelsExceeded(limit=int(daily or 0), pause=until_midnight())


def pixels_today(client: redis.Redis, owner: str) -> int:
    """The pixels that an owner has sent since midnight (UTC); counted only if there is a limit."""
    return int(client.get(_day_key(owner)) or 0)


def until_midnight() -> timedelta:
    """The rest of the day (UTC), in whole seconds, at least one."""
    now = datetime.now(UTC)
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
    return timedelta(seconds=math.ceil((tomorrow - now).total_seconds()))


def _pause(client: redis.Redis, pixels: float) -> timedelta:
    """How long the engines that run now take for so many pixels."""
    rate = speed(running(client))
    if not rate:
        return _BLIND_PAUSE
    return min(timedelta(seconds=max(1, math.ceil(pixels / rate))), _LONGEST_PAUSE)


def _day_key(owner: str) -> str:
    return f"gdsr:pixels:{datetime.now(UTC):%Y-%m-%d}:{owner}"
