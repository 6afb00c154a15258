"""Job records in Redis.

Each transition is one Lua script that checks the state and the run before it writes, so a worker
that was declared lost cannot overwrite the work of its successor. Each transition has a name that
it stores in the record: a retry after a lost reply returns success.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import redis

from workers.contract.errors import GDSRError, JobNotFound, JobTooNew
from workers.contract.queue.connection import as_text, retry_once
from workers.contract.queue.jobs import (
    FINAL_STATES,
    SCHEMA,
    Job,
    JobFailure,
    JobResult,
    JobSpec,
    JobState,
)
from workers.contract.queue.runs import (
    ACTIVE,
    EVENTS,
    LARGE,
    LEASES,
    RUNNING,
    WAITING,
    acquire_lease,
)
from workers.contract.queue.webhook_outbox import DUE
from workers.contract.sentinel import replicated

#: Number of jobs that ever ended, by state.
COUNTERS = "gdsr:jobs:ended"

_Scored = list[tuple[bytes, float]]


class JobPage(NamedTuple):
    """A page of an owner's jobs."""

    jobs: list[Job]
    cursor: str | None
    """Cursor of the next page; None on the last page."""


_RUNNING = frozenset({JobState.RUNNING})
_UNFINISHED = frozenset(JobState) - FINAL_STATES

#: Lifetimes of a record for which a job stays in the list; no job is queued for that long.
_LISTED = 2

_TRANSITION = """
local state = redis.call('hget', KEYS[1], 'state')
if not state then return 0 end
if redis.call('hget', KEYS[1], 'move') == ARGV[7] then return 1 end
if not string.find(ARGV[1], ',' .. state .. ',', 1, true) then return 0 end
if ARGV[2] ~= '' and redis.call('hget', KEYS[1], 'run') ~= ARGV[2] then return 0 end
redis.call('hset', KEYS[1], 'state', ARGV[3], 'move', unpack(ARGV, 7))
if ARGV[3] == 'succeeded' then
  redis.call('hset', KEYS[1], 'tiles_done', redis.call('hget', KEYS[1], 'tiles') or 0)
end
if ARGV[4] ~= '' then
  redis.call('hdel', KEYS[4], ARGV[5])
  redis.call('hdel', KEYS[5], ARGV[5])
  redis.call('zrem', KEYS[7], ARGV[5])
  if redis.call('hexists', KEYS[1], 'webhook') == 1 then
    redis.call('zadd', KEYS[6], redis.call('time')[1], ARGV[5])
  end
  redis.call('zrem', KEYS[2], ARGV[5])
  redis.call('expire', KEYS[1], ARGV[4])
  redis.call('hincrby', KEYS[3], ARGV[3], 1)
end
redis.call('publish', ARGV[6], ARGV[5] .. ' ' .. ARGV[3])
return 1
"""


_FORGET = """
if redis.call('hget', KEYS[1], 'finished_at') ~= ARGV[1] then return 0 end
return redis.call('del', KEYS[1])
"""


class JobRecords:
    """All job records in one Redis."""

    def __init__(self, client: redis.Redis, *, record_ttl: timedelta) -> None:
        self.client = client
        self.record_ttl = record_ttl

    def add(self, spec: JobSpec, pipe: "redis.client.Pipeline", *, queue: str = LARGE) -> Job:
        """Add a new, queued record to a transaction that queues its id."""
        pipe.hset(WAITING, spec.id, spec.pixels)
        pipe.zadd(ACTIVE, {spec.id: spec.created_at.timestamp()})
        webhook = {"webhook": "1"} if spec.webhook else {}
        self._write(spec, JobState.QUEUED, {"queue": queue, **webhook}, pipe)
        return Job(spec=spec, state=JobState.QUEUED)

    def add_ended(self, spec: JobSpec, result: JobResult, pipe: "redis.client.Pipeline") -> Job:
        """Add a new record with a result to a transaction."""
        now = datetime.now(UTC)
        fields = {
            "started_at": now.isoformat(),
            "finished_at": now.isoformat(),
            "result": result.model_dump_json(),
        }
        self._write(spec, JobState.SUCCEEDED, fields, pipe)
        pipe.expire(job_key(spec.id), self.record_ttl)
        pipe.hincrby(COUNTERS, JobState.SUCCEEDED, 1)
        if spec.webhook:
            pipe.zadd(DUE, {spec.id: 0})  # at once, whatever the clock of this host says
        return Job(
            spec=spec, state=JobState.SUCCEEDED, started_at=now, finished_at=now, result=result
        )

    def _write(
        self, spec: JobSpec, state: JobState, fields: dict[str, str], pipe: "redis.client.Pipeline"
    ) -> None:
        """Write a record and list it as one of its owner."""
        own = {"spec": spec.model_dump_json(), "state": state, "pixels": str(spec.pixels)}
        record: dict[Any, str] = {**own, **fields}
        pipe.hset(job_key(spec.id), mapping=record)
        key, created = _list_key(spec.owner), spec.created_at.timestamp()
        pipe.zadd(key, {spec.id: created})
        # Records expire on their own; their list entries are removed here.
        pipe.zremrangebyscore(key, "-inf", created - _LISTED * self.record_ttl.total_seconds())

    def get(self, job_id: str) -> Job:
        """The current state of a job.

        Raises:
            JobNotFound: there is no record, or it has expired.
            JobTooNew: a newer release wrote it.
        """
        fields = self.client.hgetall(job_key(job_id))
        if not fields:
            raise JobNotFound(job_id)
        return _job(fields)

    def page(self, owner: str, *, limit: int, cursor: str) -> "JobPage":
        """Jobs of an owner, newest first, after the cursor.

        Raises:
            ValueError: the cursor is invalid.
        """
        start, last = float("inf"), ""
        if cursor:
            written, last = cursor.split(":")
            start = float(written)
            if math.isnan(start):  # Redis refuses it
                raise ValueError(cursor)
        found = self.client.zrevrangebyscore(
            _list_key(owner), start, "-inf", start=0, num=limit + 2, withscores=True
        )
        listed = [(as_text(job_id), float(score)) for job_id, score in cast("_Scored", found)]
        rest = [(one, score) for one, score in listed if not last or (score, one) < (start, last)]
        jobs = self.get_many([job_id for job_id, _ in rest[:limit]])
        last_id, last_score = rest[limit - 1] if len(rest) > limit else ("", 0.0)
        return JobPage(
            jobs=[job for job in jobs.values() if job is not None],
            cursor=f"{last_score!r}:{last_id}" if last_id else None,
        )

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job | None]:
        """The current state of jobs; None for missing, invalid or too new ones."""
        with self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(job_key(job_id))
            records = pipe.execute()
        jobs: dict[str, Job | None] = {}
        for job_id, fields in zip(job_ids, records, strict=True):
            try:
                jobs[job_id] = _job(fields) if fields else None
            except (ValueError, JobTooNew):
                jobs[job_id] = None
        return jobs

    def start(self, job_id: str, *, run: str, worker: str) -> bool:
        """Acquire the lease of a queued job for a run; from then on only that run may write."""
        return acquire_lease(self.client, job_id, run=run, worker=worker)

    def progress(self, job_id: str, *, run: str, tiles_done: int, tiles: int) -> bool:
        """Record the progress of a run. Returns False if the run has lost its lease."""
        fields = {"tiles_done": str(tiles_done), "tiles": str(tiles)}
        return self._transition(job_id, JobState.RUNNING, fields, run=run, allowed=_RUNNING)

    def succeed(self, job_id: str, *, run: str, result: JobResult) -> bool:
        """Record success. Returns False if the run has lost its lease."""
        fields = {"result": result.model_dump_json()}
        return self._transition(job_id, JobState.SUCCEEDED, fields, run=run)

    def fail(self, job_id: str, *, error: GDSRError, run: str = "") -> bool:
        """Record a failure. Returns False if the job has ended, or the run has lost its lease."""
        fields = {"failure": JobFailure.of(error).model_dump_json()}
        allowed = _RUNNING if run else _UNFINISHED
        return self._transition(job_id, JobState.FAILED, fields, run=run, allowed=allowed)

    def cancel(self, job_id: str) -> bool:
        """Record a cancellation. Returns False if the job has ended already."""
        return self._transition(job_id, JobState.CANCELLED, {})

    def forget(self, job: Job) -> None:
        """Delete the record of an ended job, unless it was created anew in the meantime."""
        ended = "" if job.finished_at is None else job.finished_at.isoformat()
        retry_once(lambda: self.client.eval(_FORGET, 1, job_key(job.id), ended))

    def erase(self, job_id: str) -> None:
        with self.client.pipeline() as pipe:
            pipe.delete(job_key(job_id))
            pipe.zrem(ACTIVE, job_id)
            pipe.hdel(WAITING, job_id)
            pipe.hdel(RUNNING, job_id)
            pipe.zrem(LEASES, job_id)
            pipe.zrem(DUE, job_id)
            pipe.publish(EVENTS, f"{job_id} ")
            pipe.execute()

    def active(self) -> list[str]:
        """Ids of the jobs that have not ended, oldest first."""
        return list(map(as_text, cast("list[bytes]", self.client.zrange(ACTIVE, 0, -1))))

    def load(self) -> tuple[dict[str, int], list[int]]:
        """Pixels of the queued jobs, by id, and of the running ones."""
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hgetall(WAITING)
            pipe.hvals(RUNNING)
            waiting, running = pipe.execute()
        return {as_text(job_id): int(n) for job_id, n in waiting.items()}, [int(n) for n in running]

    def ended(self) -> dict[str, int]:
        """Number of jobs that ever ended, by final state."""
        return {as_text(state): int(n) for state, n in self.client.hgetall(COUNTERS).items()}

    def _transition(
        self,
        job_id: str,
        state: JobState,
        fields: Mapping[str, str],
        *,
        run: str = "",
        allowed: AbstractSet[JobState] = _UNFINISHED,
    ) -> bool:
        """Set the fields and the state of a job that is in one of the `allowed` states and, if a
        run is given, belongs to it. Returns whether it was.
        """
        seconds, ended = "", state in FINAL_STATES
        if ended:
            fields = {**fields, "finished_at": datetime.now(UTC).isoformat()}
            seconds = str(max(1, int(self.record_ttl.total_seconds())))
        pairs = [part for pair in fields.items() for part in pair]
        keys = [job_key(job_id), ACTIVE, COUNTERS, WAITING, RUNNING, DUE, LEASES]
        states = f",{','.join(sorted(allowed))},"
        name = secrets.token_hex(8)
        args = [states, run, state, seconds, job_id, EVENTS, name, *pairs]

        def write(to: redis.Redis) -> object:
            return to.eval(_TRANSITION, len(keys), *keys, *args)

        if not ended:
            return bool(retry_once(lambda: write(self.client)))
        # a replica has to have it, as the upload is deleted next
        return bool(retry_once(lambda: replicated(self.client, write)))


def _job(fields: Mapping[bytes | str, bytes | str]) -> Job:
    record: dict[str, object] = {as_text(name): as_text(value) for name, value in fields.items()}
    for name in ("spec", "result", "failure"):
        if name in record:
            record[name] = json.loads(str(record[name]))
    spec = record.get("spec")
    if isinstance(spec, dict) and int(spec.get("schema_version", 1)) > SCHEMA:
        raise JobTooNew(str(spec.get("id")))
    return Job.model_validate(record)


def _list_key(owner: str) -> str:
    return f"gdsr:jobs:of:{owner}"


def job_key(job_id: str) -> str:
    """Redis key of its record."""
    return f"gdsr:job:{job_id}"
