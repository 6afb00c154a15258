"""RQ, made safe.

A job's payload is its id. RQ's stock job class imports whatever dotted path stands in Redis and
its default serializer unpickles: here payloads are JSON, only tasks of the table below run, and
call-backs and webhooks that a record may name are ignored. Two queues: small pictures do not wait
behind huge ones.
"""

import importlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat

#: Task name in the payload -> function that a job worker runs.
TASKS = {
    "upscale": "workers.tasks:upscale",
    "blend": "workers.blend:blend",
    "unpack": "workers.unpack:unpack",
    "pack": "workers.pack:pack",
}
SMALL, LARGE = "gdsr-small", "gdsr-large"
#: Which queues the worker of each class serves: a later one while the earlier are empty. A small
#: job may delay a large one, by little; a large one would delay a small one by its whole run.
SERVED = {SMALL: (SMALL,), LARGE: (LARGE, SMALL)}

#: Seconds after which a worker that waits for its own queue looks at the other one.
_LOOK_ASIDE = 0.25

#: Where a job is between being popped and being started, only one thing may happen to it: that its
#: run starts, which has a lease then, or that it is given up, as none has.
_START = """
if redis.call('hget', KEYS[3], 'gdsr_run') == ARGV[2] then return 1 end
if not redis.call('zscore', KEYS[2], ARGV[2]) or redis.call('exists', KEYS[3]) == 0
  or redis.call('lrem', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('hset', KEYS[3], 'status', 'started', 'gdsr_run', ARGV[2], 'worker_name', ARGV[3],
  'started_at', ARGV[4], 'last_heartbeat', ARGV[4])
redis.call('persist', KEYS[3])
return 1
"""

#: All that RQ has to know of a job that has ended: in nineteen commands it would also keep what the
#: task returned, look for jobs that wait for this one, and count.
_FINISH = """
if not redis.call('zscore', KEYS[1], ARGV[1]) then return 0 end
redis.call('hset', KEYS[2], 'status', 'finished', 'ended_at', ARGV[3])
redis.call('expire', KEYS[2], ARGV[4])
redis.call('zrem', KEYS[1], ARGV[1])
redis.call('zrem', KEYS[3], ARGV[2])
redis.call('srem', KEYS[4], ARGV[1])
redis.call('del', KEYS[5])
return 1
"""

#: Makes of such a job a run whose lease has ended: `clean_registries` does the same for all losses.
_GIVE_UP = """
local now = tonumber(redis.call('time')[1])
local leased, since = {}, {}
for _, run in ipairs(redis.call('zrange', KEYS[3], 0, -1)) do
  leased[string.match(run, '^[^:]*')] = true
end
local seen = redis.call('hgetall', KEYS[2])
for i = 1, #seen, 2 do since[seen[i]] = tonumber(seen[i + 1]) end
redis.call('del', KEYS[2])
for _, id in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do
  local first = since[id] or now
  if not leased[id] and now - first < tonumber(ARGV[2]) then
    redis.call('hset', KEYS[2], id, first)
  elseif not leased[id] then
    redis.call('lrem', KEYS[1], 0, id)
    if redis.call('hget', ARGV[1] .. id, 'status') == 'queued' then
      redis.call('hset', ARGV[1] .. id, 'status', 'started')
      redis.call('zadd', KEYS[3], 0, id .. ':popped')
    end
  end
end
"""


class TaskRefused(Exception):
    """A payload names something that is no task."""


class _StandingExecutions(ExecutionRegistry):
    """The runs of a job that are still known.

    RQ lists a job's runs and then reads each, and raises ValueError when one has ended in between,
    or when its worker died: what is known of a run goes 15 s later, the run from the list after 75.
    """

    def get_executions(self, start: int = 0, end: int = -1) -> list[Execution]:
        known: list[Execution] = []
        for run in self.get_execution_ids(start, end):
            with suppress(ValueError):
                known.append(Execution.fetch(run, self.job_id, connection=self.connection))
        return known


class SafeJob(RQJob):
    """An RQ job that can only run a task of the table."""

    @property
    def execution_registry(self) -> ExecutionRegistry:
        return _StandingExecutions(self.id, connection=self.connection)

    @property
    def func(self) -> Callable[..., Any]:
        if self.instance is not None or self.func_name not in TASKS:
            raise TaskRefused(str(self.func_name)[:80])
        module, function = TASKS[self.func_name].split(":")
        task: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return task

    success_callback = failure_callback = stopped_callback = property(lambda _: None)

    def send_webhooks(self, *_: object, **__: object) -> None:
        """A record may name any URL; none is called."""


class SafeQueue(Queue):
    """An RQ queue of safe jobs that outlives a malformed record."""

    job_class = SafeJob

    def start(self, job: RQJob, run: Execution, worker: str) -> bool:
        """Let a run of a worker have the job that was popped for it.

        False: the worker slept so long that the job was given to another, or it was cancelled.
        """
        keys = [_intermediate(self.key), self.started_job_registry.key, job.key]
        moment = now()
        values = [job.id, run.composite_key, worker, utcformat(moment)]
        if not self.connection.eval(_START, len(keys), *keys, *values):
            return False
        job.worker_name, job.started_at, job.last_heartbeat = worker, moment, moment
        job._status = JobStatus.STARTED  # noqa: SLF001 - as RQ does, which would write it first
        return True

    def finish(self, job: RQJob, run: Execution) -> bool:
        """Forget a run that has ended, and its job a little later.

        False: the run had lost the job, which was cancelled or given to another.
        """
        registry = self.started_job_registry
        runs = ExecutionRegistry(job.id, connection=self.connection)
        keys = [registry.key, job.key, runs.key, run.worker_executions_key, run.key]
        values = [run.composite_key, run.id, utcformat(now()), job.result_ttl or 0]
        return bool(self.connection.eval(_FINISH, len(keys), *keys, *values))

    def give_up_popped(self, *, after: timedelta = timedelta(seconds=8)) -> None:
        """Count the jobs that were popped so long ago, and not started, among the lost runs."""
        keys = [_intermediate(self.key), f"{self.key}:popped", self.started_job_registry.key]
        self.connection.eval(_GIVE_UP, len(keys), *keys, SafeJob.key_for(""), after.total_seconds())

    @classmethod
    def dequeue_any(
        cls,
        queues: Iterable[Queue],
        timeout: int | None,
        connection: redis.Redis,
        *classes: Any,
        **more: Any,
    ) -> Any:
        """The next job of the first queue, or of a later one while those before it are empty.

        RQ takes from several queues with a command that loses the job of a worker that dies then;
        here each step is a move.

        Raises:
            DequeueTimeout: there was none for so many seconds.
        """
        keys = [queue.key for queue in queues]
        end = time.monotonic() + (timeout or 0)
        while True:
            key, job_id = _moved(connection, keys)
            if job_id is None and timeout is None:
                return None
            if job_id is None:
                left = end - time.monotonic()
                if left <= 0:
                    raise DequeueTimeout(timeout, keys)
                pause = left if len(keys) == 1 else min(left, _LOOK_ASIDE)
                job_id = connection.blmove(key, _intermediate(key), pause)  # type: ignore[arg-type]
            if job_id is not None:
                name = job_id.decode() if isinstance(job_id, bytes) else str(job_id)
                found = cls._fetch_dequeued_job(connection, key, name, *classes, **more)
                if found is not None:
                    return found

    @classmethod
    def _fetch_dequeued_job(
        cls, connection: redis.Redis, queue_key: str, job_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return super()._fetch_dequeued_job(connection, queue_key, job_id, *args, **kwargs)
        except redis.RedisError:
            raise
        except Exception:  # noqa: BLE001 - whatever a malformed hash raises would end the worker
            connection.lrem(_intermediate(queue_key), 0, job_id)
            connection.lpush("gdsr:poison", job_id)
            return None


def open_queue(name: str, client: redis.Redis) -> SafeQueue:
    """One of the two RQ queues."""
    return SafeQueue(name, connection=client, serializer=JSONSerializer, job_class=SafeJob)


def _moved(connection: redis.Redis, keys: list[str]) -> tuple[str, Any]:
    """The first queue that has a job, and the job's id; else the first, and None."""
    for key in keys:
        job_id = connection.lmove(key, _intermediate(key))
        if job_id is not None:
            return key, job_id
    return keys[0], None


def _intermediate(key: str) -> str:
    return f"{key}:intermediate"
