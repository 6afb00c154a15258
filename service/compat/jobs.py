"""Jobs of clients that wait for the result."""

import math
from collections.abc import Sequence

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.http.openapi import OF_THE_OWNER
from service.http.problems import RequestInvalid
from service.jobs.results import Wait, check_kept, ended_job, result_response
from service.jobs.upscale import cancel, is_anonymous
from service.services import Services
from workers.contract import errors
from workers.contract.errors import QueueUnavailable
from workers.contract.queue.jobs import Job

#: Problems of a picture that is uploaded and waited for.
PROBLEMS = (
    *OF_THE_OWNER, RequestInvalid, errors.RateExceeded, errors.PixelsExceeded, errors.QueueFull,
    errors.NoWorker, errors.StorageFull, errors.StorageUnavailable, errors.JobCancelled,
    errors.JobExpired,
)  # fmt: skip


async def finished(
    services: Services, request: Request, jobs: Sequence[Job]
) -> list[Job] | Response:
    """Wait until all jobs have succeeded; return them, or the response for one that failed.

    If one fails or the client leaves, the others are cancelled, unless the client has a key and
    can find them.

    Raises:
        JobCancelled: a job was cancelled.
        JobExpired: a result is already gone.
        QueueUnavailable: the service stops, or Redis does not answer.
    """
    succeeded: list[Job] = []
    try:
        for waiting in jobs:
            job = await ended_job(waiting, services, request, Wait(math.inf, {}))
            if job is None and await request.is_disconnected():
                raise ClientDisconnect
            if job is None:
                raise QueueUnavailable("the wait for the job was cut short")
            if job.result is None:
                return result_response(job, services, request)
            await run_in_threadpool(check_kept, job, services.blobs)
            succeeded.append(job)
        return succeeded
    finally:
        if len(succeeded) < len(jobs):
            await run_in_threadpool(_cancel_unknown, services, jobs)


def _cancel_unknown(services: Services, jobs: Sequence[Job]) -> None:
    for job in jobs:
        if is_anonymous(services, job, None):
            cancel(services, job.id)
