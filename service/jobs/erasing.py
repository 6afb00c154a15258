"""Deletion of a job with its picture, its results and its derived jobs."""

from contextlib import suppress

from service.services import Services
from workers.contract.errors import JobNotFound
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.jobs import Job


def erase(services: Services, job: Job) -> None:
    """Delete a job that has ended, and all jobs derived from it.

    Raises:
        QueueUnavailable: Redis does not answer.
        StorageUnavailable: the store does not answer.
    """
    services.queue.forget(job)
    for blend_id in services.queue.blends_of(job.id):
        with suppress(JobNotFound):
            erase(services, services.queue.cancel(blend_id))
    if job.spec.batch is not None:
        services.blobs.delete(*services.batches.forget_pack(job.spec.batch))
    services.blobs.delete(*job.spec.inputs)
    if job.result is not None:
        services.blobs.delete(*job.result.keys)
    with redis_down_is_queue_unavailable():
        services.queue.records.erase(job.id)
