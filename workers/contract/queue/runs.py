"""Queues and leases of tasks. Our record and its lease decide; RQ delivers ids, possibly twice.

RQ's own job record, which contains a dotted path to import, is neither written nor read. There are
two queues, so that small pictures do not wait behind huge ones.

A task is a job, the unpacking of a batch or the packing of its zip. Its record is a hash with its
state, its RQ queue and the run that holds it. A run acquires the lease of the record and renews it
while it works; when a lease expires, the run is lost and its task is queued again. Each script is
idempotent.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer

from workers.contract.queue.connection import as_text, retry_once

SMALL, LARGE = "gdsr-small", "gdsr-large"
#: Queues of each worker class, in order of priority. A small job may delay a large one, slightly; a
#: large one would delay a small one by its whole run.
SERVED = {SMALL: (SMALL,), LARGE: (LARGE, SMALL)}
#: Ids of jobs that have not ended, by creation time.
ACTIVE = "gdsr:jobs:active"
#: Pixels of queued and running jobs, by task.
WAITING, RUNNING = "gdsr:jobs:waiting", "gdsr:jobs:running"
#: Expiry of each task's lease, in seconds since 1970 by the clock of Redis.
LEASES = "gdsr:leases"
#: Job workers, with the expiry of each entry by the clock of Redis.
WORKERS = "gdsr:workers"
#: Channel that publishes every change of a job record: `id state`, or `id ` if deleted; and
#: `id packed` when the unpacking of a batch has failed, or its packing has ended.
EVENTS = "gdsr:events"

#: Duration of a lease.
LEASE = timedelta(seconds=15)

#: Why a run ended without an outcome.
End = Literal["leaves", "crashed", "lost", "overdue"]
Verdict = Literal["queued", "lost", "crashed", "over"]

_ACQUIRE = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end
local state, run = unpack(redis.call('hmget', KEYS[1], 'state', 'run'))
if state == 'running' and run == ARGV[2] then return 1 end
if state ~= 'queued' then return 0 end
redis.call('hset', KEYS[1], 'state', 'running', 'run', ARGV[2], 'worker', ARGV[3],
  'started_at', ARGV[4], 'tiles_done', '0', 'tiles', '0')
redis.call('zadd', KEYS[2], redis.call('time')[1] + ARGV[5], ARGV[1])
redis.call('hdel', KEYS[3], ARGV[1])
local pixels = redis.call('hget', KEYS[1], 'pixels')
if pixels then redis.call('hset', KEYS[4], ARGV[1], pixels) end
redis.call('publish', ARGV[6], ARGV[1] .. ' running')
return 1
"""

#: A queued task can be leased, except by the run that lost it.
_RENEW = """
local state, run = unpack(redis.call('hmget', KEYS[1], 'state', 'run'))
if state == 'queued' and run ~= ARGV[2] then return 1 end
if state ~= 'running' or run ~= ARGV[2] then return 0 end
redis.call('zadd', KEYS[2], redis.call('time')[1] + ARGV[3], ARGV[1])
return 1
"""

#: Retried once after a loss or a crash.
_REQUEUE = """
local state, run, spent, crashed =
  unpack(redis.call('hmget', KEYS[1], 'state', 'run', 'losses', 'crashed'))
if state == 'queued' and run == ARGV[2] then return 'queued' end
local lease = redis.call('zscore', KEYS[2], ARGV[1])
if ARGV[3] == 'overdue' and lease and lease + 0 > redis.call('time')[1] + 0 then return 'over' end
if state ~= 'running' then
  redis.call('zrem', KEYS[2], ARGV[1])
  redis.call('hdel', KEYS[4], ARGV[1])
end
if state ~= 'running' or run ~= ARGV[2] then return 'over' end
if ARGV[3] ~= 'leaves' then
  if spent then return ARGV[3] == 'crashed' and crashed and 'crashed' or 'lost' end
  redis.call('hset', KEYS[1], 'losses', 1)
  if ARGV[3] == 'crashed' then redis.call('hset', KEYS[1], 'crashed', 1) end
end
redis.call('hset', KEYS[1], 'state', 'queued', 'tiles_done', '0', 'tiles', '0')
redis.call('zrem', KEYS[2], ARGV[1])
redis.call('hdel', KEYS[4], ARGV[1])
redis.call('hset', KEYS[3], ARGV[1], redis.call('hget', KEYS[1], 'pixels') or 0)
local queue = redis.call('hget', KEYS[1], 'queue') == ARGV[4] and KEYS[5] or KEYS[6]
if not redis.call('lpos', queue, ARGV[1]) then redis.call('lpush', queue, ARGV[1]) end
redis.call('publish', ARGV[5], ARGV[1] .. ' queued')
return 'queued'
"""

#: A worker may die with an id that it popped, so queued tasks that are in no queue are put at the
#: front of theirs.
_REQUEUE_LOST = """
local held, count = {}, 0
for at = 5, 6 do
  for _, task in ipairs(redis.call('lrange', KEYS[at], 0, -1)) do held[task] = true end
end
for _, task in ipairs(redis.call('hkeys', KEYS[3])) do
  if not held[task] then
    local kind, id = string.match(task, '^(%a+)-(.*)$')
    local record = 'gdsr:' .. (kind or 'job') .. ':' .. (id or task)
    local state, queue = unpack(redis.call('hmget', record, 'state', 'queue'))
    if state == 'queued' then
      redis.call('lpush', queue == ARGV[1] and KEYS[5] or KEYS[6], task)
      count = count + 1
    else
      redis.call('hdel', KEYS[3], task)
      if not state then
        redis.call('zrem', KEYS[7], task)
        redis.call('zrem', 'gdsr:batches:unpacking', id or task)
      end
    end
  end
end
for _, task in ipairs(redis.call('hkeys', KEYS[4])) do
  if not redis.call('zscore', KEYS[2], task) then  -- else a loss of its run would never show
    redis.call('zadd', KEYS[2], redis.call('time')[1] + ARGV[2], task)
  end
end
return count
"""

_REGISTER_WORKER = """
local now = redis.call('time')[1]
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
"""


def open_queue(name: str, client: redis.Redis) -> Queue:
    """Open one of the two RQ queues."""
    return Queue(name, connection=client, serializer=JSONSerializer)


def next_task(client: redis.Redis, worker_class: str, *, seconds: int | None) -> str | None:
    """Take the next id for a worker class, after at most `seconds`; None if there is none."""
    keys = [open_queue(name, client).key for name in SERVED[worker_class]]
    try:
        found = Queue.lpop(keys, seconds, connection=client)
    except DequeueTimeout:
        return None
    return None if found is None else as_text(found[1])


def record_key(task: str) -> str:
    """Redis key of a task's record: a job, `batch-ID` or `zip-ID`."""
    kind, _, name = task.rpartition("-")
    return f"gdsr:{kind or 'job'}:{name}"


def derived_key(source_id: str) -> str:
    """Redis key of the ids of the jobs or batches that are derived from a job or batch."""
    return f"gdsr:blends:{source_id}"


def acquire_lease(client: redis.Redis, task: str, *, run: str, worker: str) -> bool:
    """Acquire the lease of a task for a run; then only that run may write. False if not queued."""
    started, lease = datetime.now(UTC).isoformat(), int(LEASE.total_seconds())
    return bool(_run(client, _ACQUIRE, task, run, worker, started, lease, EVENTS))


def renew_lease(client: redis.Redis, task: str, *, run: str) -> bool:
    """Renew the lease of a run. Returns False if the task has ended or the lease was lost."""
    return bool(_run(client, _RENEW, task, run, int(LEASE.total_seconds())))


def requeue(client: redis.Redis, task: str, *, run: str, why: End) -> Verdict:
    """Put the task of an ended run back at the front of its queue.

    This happens once: a task that was lost or crashed before has to be failed by the caller, for
    the returned reason. A run that hands it back on purpose does not count as a try. Returns `over`
    if the task does not belong to the run any more, or if its overdue lease was renewed meanwhile.
    """
    verdict: Verdict = _run(client, _REQUEUE, task, run, why, SMALL, EVENTS).decode()
    return verdict


def expired_leases(client: redis.Redis) -> dict[str, str]:
    """The tasks with an expired lease, and their runs."""
    now, _ = client.time()
    tasks = map(as_text, cast("list[bytes]", client.zrangebyscore(LEASES, "-inf", now)))
    return {task: as_text(client.hget(record_key(task), "run") or b"") for task in tasks}


def requeue_lost(client: redis.Redis) -> int:
    """Put queued tasks that are in no queue at the front of theirs; returns their number."""
    return int(_run(client, _REQUEUE_LOST, "", SMALL, int(LEASE.total_seconds())))


def register_worker(client: redis.Redis, worker: str) -> None:
    """Register a job worker for the duration of a lease."""
    client.eval(_REGISTER_WORKER, 1, WORKERS, worker, int(LEASE.total_seconds()))


def count_workers(client: redis.Redis) -> dict[str, int]:
    """Number of busy job workers, which hold a lease each, and of idle ones."""
    now, _ = client.time()
    alive, busy = client.zcount(WORKERS, now, "+inf"), client.zcard(LEASES)
    return {"busy": busy, "idle": max(0, alive - busy)}


def _run(client: redis.Redis, script: str, task: str, *arguments: str | int) -> Any:
    queues = [open_queue(name, client).key for name in (SMALL, LARGE)]
    keys = [record_key(task), LEASES, WAITING, RUNNING, *queues, ACTIVE]
    values = [task, *arguments] if task else arguments
    return retry_once(lambda: client.eval(script, len(keys), *keys, *values))
