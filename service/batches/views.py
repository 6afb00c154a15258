"""What a client sees of a batch."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

from service.http.problems import ProblemDocument, describe_failure
from service.http.urls import address
from service.views import Links, View
from workers.contract.queue.batches import Batch, BatchItem
from workers.contract.queue.jobs import Job, JobState


class BatchState(StrEnum):
    """Where a batch is. The last two are final."""

    UNPACKING = "unpacking"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class ItemState(StrEnum):
    """Where a file of a batch is: the state of its job, or that this is gone."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


class BatchItemView(View):
    """One file of a batch."""

    name: str
    """Its path, made safe and unique."""
    state: ItemState
    """`gone`: its job was erased, or forgotten after its time."""
    job: str | None
    """Id of the job; null if it could not become one."""
    failure: ProblemDocument | None
    """Why it failed."""
    links: Links | None
    """Those of the job."""

    @classmethod
    def of(cls, item: BatchItem, job: Job | None) -> Self:
        links = None if item.job_id is None else Links.of(item.job_id)
        failure = item.failure or (job and job.failure)
        state = ItemState.FAILED if item.job_id is None else ItemState.GONE
        return cls(
            name=item.name,
            state=ItemState(job.state) if job else state,
            job=item.job_id,
            failure=failure and describe_failure(failure, instance=links.self if links else None),
            links=links,
        )


class BatchLinks(View):
    """Where to go on."""

    self: str
    """This view; DELETE cancels what is under way, and erases everything."""
    result: str
    """The zip of all results, once no job is under way."""

    @classmethod
    def of(cls, batch_id: str) -> Self:
        batch = address(f"/batches/{batch_id}")
        return cls(self=batch, result=f"{batch}/result")


class BatchView(View):
    """A batch as it is now."""

    id: str
    state: BatchState
    """`finished`: no job is under way, though some may have failed; `failed`: there are no jobs."""
    created_at: datetime
    name: str | None
    """What the client called its zip, made safe."""
    pictures: int
    """Files in it."""
    counts: dict[ItemState, int]
    """How many of them are in each state; empty until it is unpacked."""
    items: tuple[BatchItemView, ...]
    """In the order in which they were sent."""
    failure: ProblemDocument | None
    """Why a failed batch failed."""
    links: BatchLinks

    @classmethod
    def of(cls, batch: Batch, jobs: Mapping[str, Job | None]) -> Self:
        links = BatchLinks.of(batch.id)
        items = tuple(
            BatchItemView.of(item, jobs.get(item.job_id or "")) for item in batch.items or ()
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
    """Where it is, by its jobs."""
    if batch.failure is not None:
        return BatchState.FAILED
    if batch.items is None:
        return BatchState.UNPACKING
    under_way = (JobState.QUEUED, JobState.RUNNING)
    running = any(job.state in under_way for job in jobs.values() if job)
    return BatchState.RUNNING if running else BatchState.FINISHED
