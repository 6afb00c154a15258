"""`/batches/{id}/result`: serves the zip, packs it on demand, or reports why there is none."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from service.batches.views import BatchLinks, BatchState, BatchView, batch_state
from service.http.problems import answer, describe_failure
from service.jobs.results import preferred_wait, wait_until_ended
from service.services import Services
from service.transfer.downloads import content_disposition, download
from workers.contract.errors import BatchExpired, BatchNotFinished, BlobMissing, JobNotFound
from workers.contract.queue.batches import Archive, Batch
from workers.contract.queue.jobs import Job, JobResult

MEDIA_TYPE = "application/zip"
_PAUSE = 0.1  # seconds between two looks whether the zip is packed


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
    loop = asyncio.get_running_loop()
    wait = preferred_wait(prefer, cap=services.settings.max_wait)
    headers = dict(wait.headers) if wait else {}
    while True:
        response = await run_in_threadpool(_response, batch, services, request, made=made)
        left = wait.deadline - loop.time() if wait else 0
        if isinstance(response, Response) or left <= 0 or services.stopping.is_set():
            break
        if response is not None and wait is not None:  # all jobs are read again when it has ended
            look = partial(_has_ended, response.id, services)
            await wait_until_ended(response.id, look, services, request, wait)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_PAUSE, left)):
                    await services.stopping.wait()
        if await request.is_disconnected():
            break
    if not isinstance(response, Response):
        view = await run_in_threadpool(batch_view, services, batch)
        place = view.links.self if made else view.links.result
        headers |= {"Location": place, "Retry-After": "1"}
        return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)
    response.headers.update(headers)
    return response


def _has_ended(job_id: str, services: Services) -> bool | None:
    """True if a job has ended or was deleted, else None."""
    try:
        return services.queue.get(job_id).ended or None
    except JobNotFound:
        return True


def _response(
    batch: Batch, services: Services, request: Request, *, made: bool
) -> Response | Job | None:
    """The response with the zip or the failure; None while it is packed, which this starts; if the
    request `made` the batch, the last of its jobs that has not ended.
    """
    if batch.failure is not None:
        problem = describe_failure(batch.failure, instance=BatchLinks.of(batch.id).self)
        return answer(problem)
    pack = services.batches.pack(batch.id)
    if pack is not None and pack.failure is not None:
        return answer(describe_failure(pack.failure, instance=BatchLinks.of(batch.id).result))
    if pack is not None and pack.archive is None:
        return None
    if pack is not None and pack.archive is not None:
        with suppress(BlobMissing):
            return _download(batch, pack.archive, services, request)
        services.batches.forget_pack(batch.id)
    jobs = services.queue.get_many(batch.job_ids)
    under_way = [job for job in jobs.values() if job is not None and not job.ended]
    if made and under_way:
        return under_way[-1]
    if batch_state(batch, jobs) is not BatchState.FINISHED:
        raise BatchNotFinished(batch.id)
    kept = [result for job in jobs.values() if (result := _kept(job))]
    had_results = any(job is None or job.result is not None for job in jobs.values())
    if had_results and not kept:
        raise BatchExpired(batch.id)
    services.batches.submit_pack(batch.id, size=sum(result.size for result in kept))
    return None


def _kept(job: Job | None) -> JobResult | None:
    """The result of a job while it is stored, else None."""
    result = None if job is None else job.result
    return result if result is not None and result.expires_at > datetime.now(UTC) else None


def _download(batch: Batch, archive: Archive, services: Services, request: Request) -> Response:
    if archive.expires_at <= datetime.now(UTC) or not services.blobs.exists(archive.key):
        raise BlobMissing(archive.key)
    return download(
        services,
        archive.key,
        request,
        size=archive.size,
        sha256=archive.sha256,
        media_type=MEDIA_TYPE,
        disposition=content_disposition(batch.spec.name or f"{batch.id}.zip", extension="zip"),
        headers={"Content-Location": BatchLinks.of(batch.id).result},
    )
