"""Whether there is room for one more job; looking and queueing are one step.

What is to be written is collected in a pipeline and handed to a Lua script, which writes all of it
or nothing: two services cannot both take the last place, and nothing is half-accepted. One of the
keys that it writes says whether it has run: a repeat, after a reply that was lost, writes nothing.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from workers.contract.errors import PixelsExceeded, QueueFull
from workers.contract.queue.connection import REPLY_LOST
from workers.contract.queue.engines import running
from workers.contract.queue.estimates import speed
from workers.contract.queue.runs import WAITING

_DAY = timedelta(days=1)
#: What a refused client is told to wait while no engine runs, and at most.
_BLIND_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)

_ADMIT = """
if redis.call('exists', KEYS[4]) == 1 then return {'standing', 0, 0} end
local mine = tonumber(ARGV[4])
local jobs, pixels = redis.call('hlen', KEYS[1]), 0
for _, waiting in ipairs(redis.call('hvals', KEYS[1])) do pixels = pixels + waiting end
if ARGV[7] ~= '' and redis.call('hget', KEYS[3], 'run') ~= ARGV[7] then
  return {'overtaken', jobs, pixels}
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
return {'taken', jobs, pixels}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait, and how much one owner may send."""

    jobs: int
    pixels: int
    """Of all pictures that wait, before scaling."""
    pixels_per_day: int | None = None
    """Of one owner's pictures, from one midnight (UTC) to the next; None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be queued in one step."""

    owner: str
    pixels: int = 0
    jobs: int = 1


class Superseded(Exception):
    """Another run has what this one was about to write, or it was erased."""


def admit(
    client: redis.Redis,
    pipe: "redis.client.Pipeline",
    load: Load,
    bounds: QueueLimits,
    *,
    unless: str,
    hash_key: str = "",
    run: str = "",
) -> bool:
    """Run what the pipeline holds if the load fits into the bounds; its pixels count as taken.

    False: the key `unless`, which the pipeline writes, was there before. With `run` only if the
    hash still has it in its field of that name.

    Raises:
        QueueFull: too many jobs or pixels wait.
        PixelsExceeded: the owner has sent enough for today.
        Overtaken: the run is over.
    """
    commands: list[Any] = []
    for arguments, _ in pipe.command_stack:
        commands += [len(arguments), *arguments]
    pipe.reset()
    daily = bounds.pixels_per_day
    asked = (
        _ADMIT,
        4,
        WAITING,
        _day_key(load.owner),
        hash_key,
        unless,
        bounds.jobs,
        bounds.pixels,
        "" if daily is None else daily,
        load.pixels,
        int(2 * _DAY.total_seconds()),
        load.jobs,
        run,
        *commands,
    )
    try:
        verdict, jobs, pixels = client.eval(*asked)
    except REPLY_LOST:
        verdict, jobs, pixels = client.eval(*asked)
        if verdict not in (b"taken", b"standing"):  # to the repeat; the first may yet be executed
            raise
    match verdict:
        case b"jobs":  # a place is free when one of them, as large as most, has begun
            pause = _pause(client, load.jobs * pixels / max(1, jobs))
            raise QueueFull(limit=bounds.jobs, of="jobs", pause=pause)
        case b"pixels":
            pause = _pause(client, pixels + load.pixels - bounds.pixels)
            raise QueueFull(limit=bounds.pixels, of="pixels", pause=pause)
        case b"overtaken":
            raise Superseded
        case b"day":
            raise PixelsExceeded(limit=int(daily or 0), pause=until_midnight())
    return bool(verdict == b"taken")


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
