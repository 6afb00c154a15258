"""Jobs of clients that wait for the result; an upscaler is a model at a slider position."""

import base64
import math
from collections.abc import Iterator, Sequence
from functools import partial

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.http.openapi import OF_THE_OWNER
from service.http.problems import RequestInvalid
from service.jobs.options import UpscaleFields, read_fields
from service.jobs.results import Wait, check_kept, ended_job, result_response, wait_until_ended
from service.jobs.upscale import cancel, is_known_to_nobody_else
from service.services import Services
from workers.contract import errors
from workers.contract.errors import QueueUnavailable
from workers.contract.queue.jobs import Job

#: Problems of a picture that is uploaded and waited for.
PROBLEMS = (
    *OF_THE_OWNER, RequestInvalid, errors.RateExceeded, errors.PixelsExceeded, errors.QueueFull,
    errors.NoWorker, errors.StorageFull, errors.JobCancelled, errors.JobExpired,
)  # fmt: skip
#: Positions of the slider, by the names that these clients choose from.
POSITIONS = {"GDSR faithful": "0", "GDSR balanced": "0.5", "GDSR crisp": "1"}


def upscalers(services: Services) -> list[str]:
    """The names of all upscalers: those of the default model, and those of each model.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    models = sorted({model.name for engine in services.engines() for model in engine.models})
    return [*POSITIONS, *(f"{name} ({model})" for model in models for name in POSITIONS)]


def read_choice(field: str, upscaler: str, size: Sequence[tuple[str, str]]) -> UpscaleFields:
    """The options of `/upscale` for an upscaler, such as `GDSR crisp (lite)`, and a size.

    Raises:
        RequestInvalid: there is no such upscaler, or the size is not valid.
    """
    name, _, model = upscaler.removesuffix(")").partition(" (")
    if name not in POSITIONS:
        raise RequestInvalid.of("form", field, f"give one of {', '.join(POSITIONS)}")
    choice = [("trade_off", POSITIONS[name]), ("model", model), *size]
    return read_fields(UpscaleFields, query=(), form=choice)


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
            look = partial(ended_job, services, waiting.id)
            job: Job | None = waiting
            if not waiting.ended:
                wait = Wait(math.inf, {})
                job = await wait_until_ended(waiting.id, look, services, request, wait)
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
        if is_known_to_nobody_else(services, job, None):
            cancel(services, job.id)


def in_base64(services: Services, job: Job) -> Iterator[bytes]:
    """The result in base64, a piece at a time, so that a result of any size takes little memory.

    Raises:
        BlobMissing: the result is not stored.
        StorageUnavailable: the store does not answer.
    """
    result = job.result
    left = b""
    for piece in services.blobs.stream(result.key) if result else ():
        data = left + piece
        whole = len(data) - len(data) % 3
        left = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(left)
