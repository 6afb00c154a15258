"""Deletion of jobs and batches with their pictures, their results and what is derived from them."""

from contextlib import suppress

from service.services import Services
from workers.contract.errors import BatchNotFound, JobNotFound
from workers.contract.queue.batches import Batch
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.jobs import Job


def erase(services: Services, job: Job) -> None:
    """Delete a job that has ended, and all jobs derived from it."""
    services.queue.forget(job)
    for blend_id in services.queue.derived_from(job.id):
        with suppress(JobNotFound):
            erase(services, services.queue.cancel(blend_id))
    if job.spec.batch is not None:
        _forget_zips(services, job.spec.batch)
    services.blobs.delete(*job.spec.inputs)
    if job.result is not None:
        services.blobs.delete(*job.result.keys)
    with translated_redis_errors():
        services.queue.records.erase(job.id)


def erase_batch(services: Services, batch: Batch) -> None:
    """Delete a batch with its jobs, and all batches derived from it. A batch that is itself derived
    leaves the jobs of its source.
    """
    for derived_id in services.queue.derived_from(batch.id):
        with suppress(BatchNotFound):
            erase_batch(services, services.batches.get(derived_id))
    services.blobs.delete(batch.spec.upload_key)
    others: list[str] = []
    if batch.spec.derived_from is not None:
        with suppress(BatchNotFound):
            others = services.batches.get(batch.spec.derived_from).job_ids
    for job_id in set(batch.job_ids) - set(others):
        with suppress(JobNotFound):
            erase(services, services.queue.cancel(job_id))
    services.blobs.delete(*services.batches.forget_pack(batch.id))
    services.batches.erase(batch)


def _forget_zips(services: Services, batch_id: str) -> None:
    """Delete the zips of a batch and of all batches derived from it."""
    services.blobs.delete(*services.batches.forget_pack(batch_id))
    for derived_id in services.queue.derived_from(batch_id):
        _forget_zips(services, derived_id)
