"""Estimates when a queued job starts, from the pixels before it and the speed of the engines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import redis

from workers.contract.queue.engines import EngineInfo
from workers.contract.queue.runs import LARGE, RUNNING, SMALL, WAITING, open_queue

#: Jobs before one in its queue; pixels before it, in the other queue, and of running jobs.
_POSITION = """
local function pixels(key, last)
  local total, ids = 0, last < 0 and {} or redis.call('lrange', key, 0, last)
  for from = 1, #ids, 1000 do
    local some = {unpack(ids, from, math.min(from + 999, #ids))}
    for _, found in ipairs(redis.call('hmget', KEYS[3], unpack(some))) do
      total = total + (tonumber(found) or 0)
    end
  end
  return total
end
for mine = 1, 2 do
  local position = redis.call('lpos', KEYS[mine], ARGV[1])
  if position then
    local other = KEYS[3 - mine]
    local running = 0
    for _, found in ipairs(redis.call('hvals', KEYS[4])) do running = running + found end
    return {
      position, pixels(KEYS[mine], position - 1),
      pixels(other, redis.call('llen', other) - 1), running,
    }
  end
end
return nil
"""


class QueuePosition(NamedTuple):
    """Position of a job in its queue."""

    position: int
    """Jobs before it in its queue."""
    seconds: int | None
    """Estimated seconds until it starts; None: no engine runs. Constant until the queue moves."""


def speed(engines: Sequence[EngineInfo]) -> float:
    """Total input pixels per second of all engines, each with its default model."""
    return sum(
        min(model.pixels_per_second.values())
        for engine in engines
        for model in engine.models
        if model.name == engine.default_model
    )


def queue_position(client: redis.Redis, job_id: str, *, rate: float) -> QueuePosition | None:
    """The position of one job, by the rule of `queue_positions`; None if it is not queued."""
    queues = [open_queue(name, client).key for name in (SMALL, LARGE)]
    found = client.eval(_POSITION, 4, *queues, WAITING, RUNNING, job_id)
    return None if found is None else _position(*found, rate=rate)


def _position(
    position: int, before: int, others: int, running: int, *, rate: float
) -> QueuePosition:
    """The position of a job behind so many jobs and pixels."""
    work = running / 2 + before + min(before, others)
    return QueuePosition(position, round(work / rate) if rate else None)


def queue_positions(
    queues: Sequence[Sequence[str]],
    *,
    waiting: Mapping[str, int],
    running: Sequence[int],
    rate: float,
) -> dict[str, QueuePosition]:
    """The position of each job in the two queues, in order.

    Engines serve both queues alternately, so while jobs are before one in its queue, as many pixels
    of the other queue are computed too. Running jobs are half done on average. `waiting` and
    `running` are pixels, `rate` is pixels per second.
    """
    totals = [sum(waiting.get(job_id, 0) for job_id in queue) for queue in queues]
    found: dict[str, QueuePosition] = {}
    for number, queue in enumerate(queues):
        others = sum(totals) - totals[number]
        before = 0
        for position, job_id in enumerate(queue):
            found[job_id] = _position(position, before, others, sum(running), rate=rate)
            before += waiting.get(job_id, 0)
    return found
