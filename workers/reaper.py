"""Puts right what a death left behind. Any worker may do it; one at a time does.

RQ's registries say which runs were lost; our records follow them. Pictures are left to the janitor.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import redis
from rq.job import JobStatus

from workers.contract.batches import BatchRecords
from workers.contract.errors import (
    BatchNotFound,
    GDSRError,
    JobCrashed,
    JobNotFound,
    JobTimedOut,
    JobTooNew,
    WorkerLost,
)
from workers.contract.jobs import Job, JobState
from workers.contract.records import JobRecords

#: A queued record whose RQ job is missing for so long was cut off while it was written.
_HALF_WRITTEN = timedelta(seconds=30)
#: Fields that the job worker adds to RQ's own hash of a job.
CRASHES, CAUSE = "gdsr_crashes", "gdsr_cause"

#: RQ's words for a task that somebody has, or will have.
_UNDER_WAY = {JobStatus.QUEUED.value.encode(), JobStatus.STARTED.value.encode()}

log = logging.getLogger(__name__)


def reconcile(
    client: redis.Redis,
    records: JobRecords,
    job_ids: Sequence[str],
    *,
    failed: Callable[[Job, GDSRError], None] = lambda *_: None,
) -> None:
    """Make these records follow what RQ knows of them; `failed` hears of the jobs that end so."""
    jobs: list[Job] = []
    for job_id in job_ids:
        try:
            job = records.get(job_id)
        except JobNotFound:
            records.erase(job_id)
        except JobTooNew:
            pass  # its own workers follow it
        else:
            if not job.ended:
                jobs.append(job)
    # After the records: of a job that is started in between RQ would still say that it waits.
    with client.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hmget(f"rq:job:{job.id}", "status", CRASHES, CAUSE)
        tasks = pipe.execute()
    for job, (status, crashes, cause) in zip(jobs, tasks, strict=True):
        error = _follow(records, job, status, crashes=int(crashes or 0), cause=cause)
        if error is not None:
            failed(job, error)


def reconcile_batches(client: redis.Redis, *, record_ttl: timedelta) -> None:
    """End the batches whose unpacking was lost twice, or was cut off while it was queued."""
    batches = BatchRecords(client, record_ttl=record_ttl)
    for batch_id in batches.unpacking():
        status, crashes, cause = client.hmget(f"rq:job:{batch_id}", ["status", CRASHES, CAUSE])
        if status in _UNDER_WAY:
            continue
        try:
            batch = batches.get(batch_id)
        except BatchNotFound:
            batches.erase(batch_id)
            continue
        if status is None and datetime.now(UTC) - batch.spec.created_at < _HALF_WRITTEN:
            continue
        error: GDSRError = JobCrashed() if int(crashes or 0) >= 2 else WorkerLost()
        if cause == b"timeout":
            error = JobTimedOut(seconds=int(batch.spec.time_limit.total_seconds()))
        if batches.fail(batch_id, error=error):
            log.warning("batch %s failed: %s", batch_id, error.slug)


def _follow(
    records: JobRecords,
    job: Job,
    status: bytes | None,
    *,
    crashes: int,
    cause: bytes | None,
) -> GDSRError | None:
    match None if status is None else JobStatus(status.decode()):
        case JobStatus.STARTED:
            return None
        case JobStatus.QUEUED:
            if job.state is JobState.RUNNING and job.run is not None:
                records.requeue(job.id, run=job.run)
            return None
        case None if job.state is JobState.QUEUED and _age(job) < _HALF_WRITTEN:
            return None
    error: GDSRError = WorkerLost()
    if cause == b"timeout":
        error = JobTimedOut(seconds=int(job.spec.time_limit.total_seconds()))
    elif crashes >= 2:
        error = JobCrashed()
    if not records.fail(job.id, error=error, run=job.run):
        return None
    log.warning("job %s failed: %s", job.id, error.slug)
    return error


def _age(job: Job) -> timedelta:
    return datetime.now(UTC) - job.spec.created_at
