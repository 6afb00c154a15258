"""`/jobs/{id}/result`: serves the picture, or reports why there is none.

With `Prefer: wait=N` (RFC 7240) the response is delayed until the job has ended.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.http.problems import describe_failure, problem_response
from service.services import Services
from service.transfer.downloads import download, result_name
from service.views import JobView, Links
from workers.contract import errors
from workers.contract.blobs.base import BlobStore
from workers.contract.images.formats import extension
from workers.contract.queue.estimates import QueuePosition
from workers.contract.queue.jobs import Job, JobResult, JobState

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
#: Polling interval for the job and for the client's connection if no event arrives.
_POLL = timedelta(seconds=5)

Found = TypeVar("Found")


class Wait(NamedTuple):
    """The remaining part of the wait that a client prefers."""

    deadline: float
    """By the clock of the event loop."""
    headers: dict[str, str]
    """Response headers that state the total wait."""


async def picture_or_job(
    job: Job, services: Services, request: Request, *, wait: Wait | None, at_once: bool
) -> Response:
    """Respond 200 with the picture, after a wait if the client asks for one; else 202 with the job.

    With `at_once` an existing picture is returned even without `Prefer: wait`.
    """
    headers = dict(wait.headers) if wait else {}
    response: Response | None = None

    def poll() -> Response | None:
        nonlocal job
        job = services.queue.get(job.id)
        return result_response(job, services, request) if job.ended else None

    if job.ended and (at_once or wait):
        response = await run_in_threadpool(result_response, job, services, request)
    elif wait:
        response = await wait_until_ended(job.id, poll, services, request, wait)
    if response is not None:
        response.headers.update(headers)
        return response
    position = None
    with suppress(errors.QueueUnavailable):  # which must not fail an accepted request
        position = await run_in_threadpool(services.queue.queue_position, job)
    view = JobView.of(job, position=position)
    headers |= {"Location": view.links.self, "Retry-After": retry_after(position)}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)


def preferred_wait(prefer: Sequence[str], *, cap: timedelta) -> Wait | None:
    """The wait that the client prefers, at most `cap`; None if it states none."""
    found = _WAIT.search(",".join(prefer))
    if found is None:
        return None
    patience = min(timedelta(seconds=int(found[1])), cap).total_seconds()
    deadline = asyncio.get_running_loop().time() + patience
    return Wait(deadline, {"Preference-Applied": f"wait={int(patience)}"})


async def wait_until_ended(
    job_id: str,
    poll: Callable[[], Found | None],
    services: Services,
    request: Request,
    wait: Wait,
) -> Found | None:
    """Call `poll` in a thread when the job or batch has ended; None if the wait, the service or the
    connection ends first.
    """
    loop = asyncio.get_running_loop()
    with services.subscriptions.awaiting(job_id) as may_have_ended:
        while not services.stopping.is_set():
            left = wait.deadline - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _POLL.total_seconds())):
                    await may_have_ended.wait()
            may_have_ended.clear()
            try:
                found = await run_in_threadpool(poll)
            except (errors.QueueUnavailable, errors.StorageUnavailable):
                return None  # the job was accepted, and the client must get its address
            if found is not None or loop.time() >= wait.deadline or await request.is_disconnected():
                return found
    return None


async def ended_job(job: Job, services: Services, request: Request, wait: Wait) -> Job | None:
    """The job once it has ended; None if the wait, the service or the connection ends first.

    Raises JobNotFound if it was deleted.
    """

    def poll() -> Job | None:
        latest = services.queue.get(job.id)
        return latest if latest.ended else None

    return job if job.ended else await wait_until_ended(job.id, poll, services, request, wait)


def result_response(job: Job, services: Services, request: Request) -> Response:
    """Respond with the picture as a file, or with the failure of the job.

    Raises JobNotFinished, JobCancelled or JobExpired if there is neither.
    """
    if job.failure is not None:
        return problem_response(describe_failure(job.failure, instance=Links.of(job.id).self))
    if job.state is JobState.CANCELLED:
        raise errors.JobCancelled(job.id)
    if job.result is None:
        raise errors.JobNotFinished(job.id, state=job.state)
    result = job.result
    check_kept(job, services.blobs)
    name = job.id
    if job.spec.name is not None:
        # Longer sides, because the result may be rotated.
        scale = max(result.width, result.height) / max(job.spec.image.width, job.spec.image.height)
        name = result_name(services.settings.result_name, job.spec.name, scale=scale)
    try:
        return download(
            services,
            result,
            request,
            media_type=result.format.media_type,
            name=f"{name}.{extension(result.format)}",
            headers={
                "Content-Location": Links.of(job.id).result,
                "Server-Timing": server_timing(result),
            },
        )
    except errors.BlobMissing:
        raise errors.JobExpired(job.id) from None


def check_kept(job: Job, blobs: BlobStore) -> None:
    """Raise JobExpired unless the picture of a job is still stored."""
    result = job.result
    if result is None or result.expires_at <= datetime.now(UTC) or not blobs.exists(result.key):
        raise errors.JobExpired(job.id)


def retry_after(position: QueuePosition | None) -> str:
    """`Retry-After` of a pending job: the time until it starts, at most a minute."""
    return str(min(60, max(1, (position and position.seconds) or 1)))


def server_timing(result: JobResult) -> str:
    """The `Server-Timing` header: the time of each stage in milliseconds, for browser tools."""
    return ", ".join(
        f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()
    )
