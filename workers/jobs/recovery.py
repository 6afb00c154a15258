"""Recovers the jobs of dead workers. Any worker may do it, one at a time.

Pictures are left to the janitor.
"""

import logging
from collections.abc import Callable

import redis

from workers.contract.errors import GDSRError, JobCrashed, WorkerLost
from workers.contract.queue.batches import BatchRecords
from workers.contract.queue.jobs import Job
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import End, expired_leases, requeue, requeue_lost

#: Called for each job that fails here.
OnFailure = Callable[[Job, GDSRError], None]

log = logging.getLogger(__name__)


def sweep(records: JobRecords, on_failure: OnFailure) -> None:
    """Requeue the tasks of lost runs, and queued tasks that are in no queue."""
    for task, run in expired_leases(records.client).items():
        run_ended(records, task, run=run, why="overdue", on_failure=on_failure)
    if count := requeue_lost(records.client):
        # at each sweep while a worker is missing that understands one of them
        log.debug("requeued %d tasks that were in no queue", count)


def run_ended(records: JobRecords, task: str, *, run: str, why: End, on_failure: OnFailure) -> None:
    """Handle the end of a run: requeue its task or fail it, unless the run finished it."""
    verdict = requeue(records.client, task, run=run, why=why)
    if verdict == "queued":
        log.info("%s is queued again: its run %s", task, why)
    elif verdict != "over":
        error = JobCrashed() if verdict == "crashed" else WorkerLost()
        fail(records, task, run=run, error=error, on_failure=on_failure)


def fail(
    records: JobRecords, task: str, *, run: str, error: GDSRError, on_failure: OnFailure
) -> None:
    """Fail the task of a run that cannot do it itself."""
    kind, _, name = task.rpartition("-")
    batches = BatchRecords(records.client, record_ttl=records.record_ttl)
    match kind:
        case "batch":
            failed = batches.fail(name, error=error, run=run)
        case "zip":
            failed = batches.fail_pack(name, error=error, run=run)
        case _:
            job = records.get_many([task])[task]
            try:
                failed = records.fail(task, error=error, run=run)
            except redis.RedisError as failure:  # behind Sentinels; a sweep repeats what is missing
                log.warning("the failure of %s may not be recorded: %s", task, failure)
                return
            if failed and job is not None:
                on_failure(job, error)
    if failed:
        log.warning("%s failed: %s", task, error.slug)
