"""Puts right what a death left behind. Any worker may do it; one at a time does.

Pictures are left to the janitor.
"""

import logging
from collections.abc import Callable
from typing import Literal

from workers.contract.errors import GDSRError, JobCrashed, WorkerLost
from workers.contract.queue.batches import BatchRecords
from workers.contract.queue.jobs import Job
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import expired_leases, requeue, requeue_lost

#: Hears of the jobs that fail here.
Heard = Callable[[Job, GDSRError], None]

log = logging.getLogger(__name__)


def sweep(records: JobRecords, heard: Heard) -> None:
    """Let tasks wait again whose run was lost, or whose id was."""
    for task, run in expired_leases(records.client).items():
        run_ended(records, task, run=run, why="overdue", heard=heard)
    if count := requeue_lost(records.client):
        log.info("%d tasks were in no queue, and are again", count)


def run_ended(
    records: JobRecords,
    task: str,
    *,
    run: str,
    why: Literal["leaves", "crashed", "lost", "overdue"],
    heard: Heard,
) -> None:
    """A run is over and its task may not be: it waits once more, or has failed."""
    verdict = requeue(records.client, task, run=run, why=why)
    if verdict == "queued":
        log.info("%s waits again: its run %s", task, why)
    elif verdict != "over":
        error = JobCrashed() if verdict == "crashed" else WorkerLost()
        fail(records, task, run=run, error=error, heard=heard)


def fail(records: JobRecords, task: str, *, run: str, error: GDSRError, heard: Heard) -> None:
    """End the task of a run that cannot do it itself."""
    kind, _, name = task.rpartition("-")
    batches = BatchRecords(records.client, record_ttl=records.record_ttl)
    match kind:
        case "batch":
            failed = batches.fail(name, error=error, run=run)
        case "zip":
            failed = batches.fail_pack(name, error=error)
        case _:
            job = records.get_many([task])[task]
            failed = records.fail(task, error=error, run=run)
            if failed and job is not None:
                heard(job, error)
    if failed:
        log.warning("%s failed: %s", task, error.slug)
