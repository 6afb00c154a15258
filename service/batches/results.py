"""`/batches/{id}/result`: serves the zip, packs it on demand, or reports why there is none."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from service.batches.views import BatchLinks, BatchState, BatchView, batch_state
from service.http.problems import describe_failure, problem_response
from service.jobs.results import ended_job, preferred_wait, wait_until_ended
from service.services import Services
from service.transfer.downloads import download, stem
from workers.contract.errors import BatchExpired, BatchNotFinished, BlobMissing, JobNotFound
from workers.contract.queue.batches import Batch
from workers.contract.queue.jobs import Job


def batch_view(services: Services, batch: Batch) -> BatchView:
    """The current view of a batch."""
    return BatchView.of(batch, services.queue.get_many(batch.job_ids))


async def packed_or_batch(
    batch: Batch, services: Services, request: Request, *, prefer: Sequence[str], made: bool = False
) -> Response:
    """Respond 200 with the zip if it is ready, or becomes ready while the client waits; else 202.

    With `made`, the request made this batch, and 202 also says that its jobs have not ended.

    Raises:
        BatchNotFinished: some of its jobs have not ended, and it was not `made`.
        BatchExpired: all of its results have expired.
        QueueFull: the queue limit is reached.
    """
    wait = preferred_wait(prefer, cap=services.settings.max_wait)
    headers = dict(wait.headers) if wait else {}
    poll = partial(_response, batch, services, request, made=made)
    response = await run_in_threadpool(poll)
    while wait and isinstance(response, Job):  # all jobs are read again when this one has ended
        with suppress(JobNotFound):
            if await ended_job(response, services, request, wait) is None:
                break
        response = await run_in_threadpool(poll)
    if wait and response is None:
        response = await wait_until_ended(batch.id, poll, services, request, wait)
    if not isinstance(response, Response):
        view = await run_in_threadpool(batch_view, services, batch)
        place = view.links.self if made else view.links.result
        headers |= {"Location": place, "Retry-After": "1"}
        return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)
    response.headers.update(headers)
    return response


def _response(
    batch: Batch, services: Services, request: Request, *, made: bool
) -> Response | Job | None:
    """The response with the zip or the failure; None while it is packed, which this starts; if the
    request `made` the batch, the last of its jobs that has not ended.
    """
    links = BatchLinks.of(batch.id)
    if batch.failure is not None:
        return problem_response(describe_failure(batch.failure, instance=links.self))
    pack = services.batches.pack(batch.id)
    if pack is not None and pack.failure is not None:
        return problem_response(describe_failure(pack.failure, instance=links.result))
    if pack is not None:
        archive = pack.archive
        if archive is None:
            return None
        kept = archive.expires_at > datetime.now(UTC) and services.blobs.exists(archive.key)
        with suppress(BlobMissing):
            if kept:
                return download(
                    services,
                    archive,
                    request,
                    media_type="application/zip",
                    name=f"{stem(batch.spec.name or batch.id)}.zip",
                    headers={"Content-Location": links.result},
                )
        services.batches.forget_pack(batch.id)
    jobs = services.queue.get_many(batch.job_ids)
    under_way = [job for job in jobs.values() if job is not None and not job.ended]
    if made and under_way:
        return under_way[-1]
    if batch_state(batch, jobs) is not BatchState.FINISHED:
        raise BatchNotFinished(batch.id)
    results = [job.result for job in jobs.values() if job and job.result]
    sizes = [result.size for result in results if result.expires_at > datetime.now(UTC)]
    if not sizes and (results or None in jobs.values()):
        raise BatchExpired(batch.id)
    services.batches.submit_pack(batch.id, size=sum(sizes))
    return None
