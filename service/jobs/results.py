"""What stands at `/jobs/{id}/result`: the picture, or why there is none.

With `Prefer: wait=N` (RFC 7240) the answer to a request is held back until its job has ended.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.http.problems import answer, describe_failure
from service.services import Services
from service.transfer.downloads import download
from service.transfer.filenames import content_disposition, result_name
from service.views import JobView, Links
from workers.contract.blobs.base import BlobStore
from workers.contract.errors import (
    BlobMissing,
    JobCancelled,
    JobExpired,
    JobNotFinished,
    QueueUnavailable,
)
from workers.contract.images.formats import extension
from workers.contract.queue.estimates import Place
from workers.contract.queue.jobs import Job, JobResult, JobState

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
#: A job is looked at this often even if nothing was heard of it, and its client too.
_LOOK_AGAIN = timedelta(seconds=1)


async def picture_or_job(
    job: Job, services: Services, request: Request, *, prefer: Sequence[str], at_once: bool
) -> Response:
    """200 with the picture, after a wait if the client wants to; else 202 with the job.

    With `at_once` a picture that is there already needs no wish to wait.
    """
    headers: dict[str, str] = {}
    response: Response | None = None
    patience = preferred_wait(prefer, cap=services.settings.max_wait)

    def look() -> Response | None:
        nonlocal job
        job = services.queue.get(job.id)
        return result_response(job, services, request) if job.ended else None

    if patience is not None:
        headers["Preference-Applied"] = f"wait={int(patience.total_seconds())}"
    if job.ended and (at_once or patience is not None):
        response = await run_in_threadpool(result_response, job, services, request)
    elif patience is not None:
        response = await found_at_end(job.id, look, services, request, patience=patience)
    if response is not None:
        response.headers.update(headers)
        return response
    place = await run_in_threadpool(_place, services, job)
    view = JobView.of(job, place=place)
    headers |= {"Location": view.links.self, "Retry-After": look_again(place)}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)


def _place(services: Services, job: Job) -> Place | None:
    """Of a job that was accepted: its place in the queue is no reason to fail."""
    try:
        return services.queue.place(job)
    except QueueUnavailable:
        return None


def preferred_wait(prefer: Sequence[str], *, cap: timedelta) -> timedelta | None:
    """How long the client wants to wait, at most `cap`; None: it does not say."""
    found = _WAIT.search(",".join(prefer))
    return None if found is None else min(timedelta(seconds=int(found[1])), cap)


async def found_at_end(
    job_id: str,
    look: Callable[[], Response | None],
    services: Services,
    request: Request,
    *,
    patience: timedelta,
) -> Response | None:
    """What `look`, called in a thread, finds when the job has ended; None when patience, service or
    client are gone before.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.total_seconds()
    with services.watches.awaiting(job_id) as stirred:
        while not services.stopping.is_set():
            left = deadline - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN.total_seconds())):
                    await stirred.wait()
            stirred.clear()
            try:
                found = await run_in_threadpool(look)
            except QueueUnavailable:
                return None  # the job was accepted, and the client must learn where
            if found is not None or loop.time() >= deadline or await request.is_disconnected():
                return found
    return None


def result_response(job: Job, services: Services, request: Request) -> Response:
    """The finished picture as a file, or the failure of the job as a problem.

    Raises:
        JobNotFinished: there is none yet.
        JobCancelled: there will be none.
        JobExpired: there was one.
        StorageUnavailable: the store does not answer.
    """
    if job.failure is not None:
        return answer(describe_failure(job.failure, instance=Links.of(job.id).self))
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job.id)
    if job.result is None:
        raise JobNotFinished(job.id, state=job.state)
    result = job.result
    check_kept(job, services.blobs)
    try:
        return download(
            services,
            result.key,
            request,
            size=result.size,
            sha256=result.sha256,
            media_type=result.format.media_type,
            disposition=content_disposition(
                f"{_name(job, result, services.settings.result_name)}.any",
                extension=extension(result.format),
            ),
            headers={
                "Content-Location": Links.of(job.id).result,
                "Server-Timing": server_timing(result),
            },
        )
    except BlobMissing:
        raise JobExpired(job.id) from None


def _name(job: Job, result: JobResult, template: str) -> str:
    if job.spec.name is None:
        return job.id
    # Of an upright picture and of one that was turned.
    scale = max(result.width, result.height) / max(job.spec.image.width, job.spec.image.height)
    return result_name(template, job.spec.name, scale=scale)


def check_kept(job: Job, blobs: BlobStore) -> None:
    """Return if the picture of a job that has succeeded is still there.

    Raises:
        JobExpired: it is not.
    """
    result = job.result
    if result is None or result.expires_at <= datetime.now(UTC) or not blobs.exists(result.key):
        raise JobExpired(job.id)


def look_again(place: Place | None) -> str:
    """`Retry-After` of a job that has not ended: when it will start, at most a minute."""
    return str(min(60, max(1, (place and place.seconds) or 1)))


def server_timing(result: JobResult) -> str:
    """What the browser's own tools show of the stages, in milliseconds."""
    return ", ".join(
        f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()
    )
