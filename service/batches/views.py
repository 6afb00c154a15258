"""The JSON views of a batch."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

from service.http.problems import ProblemDocument, describe_failure
from service.http.proxy import address
from service.views import Links, View
from workers.contract.images.names import UniqueNames
from workers.contract.queue.batches import Batch, BatchItem, result_names
from workers.contract.queue.jobs import Job


class BatchState(StrEnum):
    """State of a batch. The last two are final."""

    UNPACKING = "unpacking"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class ItemState(StrEnum):
    """State of a file in a batch: the state of its job, or `gone`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


class BatchItemView(View):
    """One file of a batch."""

    name: str
    """Sanitised path, unique in the batch."""
    state: ItemState
    """`gone`: its job was deleted or has expired."""
    job: str | None
    """Id of its job; null if the file was rejected."""
    result: str | None
    """Path of its result in the zip, once it has succeeded."""
    failure: ProblemDocument | None
    """Why it failed."""
    links: Links | None
    """Links of its job."""

    @classmethod
    def of(cls, item: BatchItem, job: Job | None, *, result: str | None) -> Self:
        links = None if item.job_id is None else Links.of(item.job_id)
        failure = item.failure or (job and job.failure)
        state = ItemState.FAILED if item.job_id is None else ItemState.GONE
        return cls(
            name=item.name,
            state=ItemState(job.state) if job else state,
            job=item.job_id,
            result=result if job and job.result else None,
            failure=failure and describe_failure(failure, instance=links.self if links else None),
            links=links,
        )


class BatchLinks(View):
    """Related addresses."""

    self: str
    """This view. DELETE cancels pending jobs and deletes the batch."""
    result: str
    """The zip with all results, once every job has ended."""

    @classmethod
    def of(cls, batch_id: str) -> Self:
        batch = address(f"/batches/{batch_id}")
        return cls(self=batch, result=f"{batch}/result")


class BatchView(View):
    """The current state of a batch."""

    id: str
    state: BatchState
    """`finished`: every job has ended, some may have failed; `failed`: no jobs were created."""
    created_at: datetime
    name: str | None
    """Sanitised name of the zip, as sent by the client."""
    pictures: int
    """Number of files in it."""
    counts: dict[ItemState, int]
    """Number of files per state; empty until it is unpacked."""
    items: tuple[BatchItemView, ...]
    """In the order of the upload."""
    failure: ProblemDocument | None
    """Why the batch failed."""
    links: BatchLinks

    @classmethod
    def of(cls, batch: Batch, jobs: Mapping[str, Job | None]) -> Self:
        links = BatchLinks.of(batch.id)
        names = result_names(batch.items or (), jobs, UniqueNames())
        items = tuple(
            BatchItemView.of(item, jobs.get(item.job_id or ""), result=names.get(item.job_id or ""))
            for item in batch.items or ()
        )
        return cls(
            id=batch.id,
            state=batch_state(batch, jobs),
            created_at=batch.spec.created_at,
            name=batch.spec.name,
            pictures=batch.spec.pictures,
            counts=dict(Counter(item.state for item in items)),
            items=items,
            failure=batch.failure and describe_failure(batch.failure, instance=links.self),
            links=links,
        )


def batch_state(batch: Batch, jobs: Mapping[str, Job | None]) -> BatchState:
    """The state of a batch, derived from its jobs."""
    if batch.failure is not None:
        return BatchState.FAILED
    if batch.items is None:
        return BatchState.UNPACKING
    running = any(not job.ended for job in jobs.values() if job)
    return BatchState.RUNNING if running else BatchState.FINISHED
