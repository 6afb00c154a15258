"""`POST /upscale`: creates a job from a picture; other routes create several and wait for them."""

import math
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.access.rate_limits import pixel_headers
from service.http import openapi
from service.http.problems import JOB_FAILURES, RequestInvalid
from service.jobs import cache
from service.jobs.idempotency import claim, read_key
from service.jobs.options import (
    FIELDS,
    UpscaleFields,
    described_request,
    read_fields,
    requested_options,
)
from service.jobs.results import (
    Wait,
    check_kept,
    ended_job,
    picture_or_job,
    preferred_wait,
    result_response,
)
from service.services import Owner, Services, ServicesDep
from service.transfer.downloads import Prefer
from service.transfer.incoming import Upload
from service.transfer.mistakes import HEAD_BYTES, mistake
from service.transfer.uploads import deleted_if_refused, receive
from service.views import JobView
from workers.contract import errors
from workers.contract.images.formats import ImageFormat
from workers.contract.images.names import safe_name
from workers.contract.observability import logs
from workers.contract.queue.jobs import Job
from workers.contract.queue.queue import new_job_id
from workers.contract.queue.validation import validate_upload

router = APIRouter(tags=["upscale"])

_IN_JSON = {"type": "string", "description": "In base64, or as a data URI"}
_REQUEST = described_request(
    UpscaleFields,
    "The picture. Accepts JPEG, PNG, WebP, TIFF, BMP, AVIF and GIF, detected from the contents; "
    "HEIC and JPEG XL if `/limits` lists them.",
    files={"image": openapi.BINARY["schema"]},
    more={
        "application/json": openapi.form({"image": _IN_JSON, **FIELDS}, "image"),
        **{f"image/{name}": openapi.BINARY for name in ImageFormat},
        "application/octet-stream": openapi.BINARY,
    },
    needs=["image"],
    required=True,
)
#: Problems of a picture that is uploaded and waited for.
PROBLEMS = (
    *openapi.OF_THE_OWNER, RequestInvalid, errors.RateExceeded, errors.PixelsExceeded,
    errors.QueueFull, errors.NoWorker, errors.StorageFull, errors.StorageUnavailable,
    errors.JobCancelled, errors.JobExpired,
)  # fmt: skip
_SENT = ("Cache-Status", "RateLimit", "RateLimit-Policy")
_RESPONSES = {
    200: {
        "description": "The finished picture, with `Prefer: wait`",
        "content": openapi.PICTURE_TYPES,
        "headers": openapi.PICTURE[200]["headers"] | openapi.headers(*_SENT),
    },
    **openapi.pending("The job", JobView, openapi.JOB_LINKS, "Preference-Applied", *_SENT),
    **openapi.documented(
        *openapi.OF_THE_OWNER, errors.RateExceeded, errors.PixelsExceeded,
        RequestInvalid, errors.QueueFull, errors.WebhooksOff, errors.WebhookNotAllowed,
        errors.IdempotencyKeyReused, errors.JobNotFound, errors.JobTooNew, errors.NoWorker,
        errors.StorageFull, errors.StorageUnavailable, errors.JobCancelled, errors.JobExpired,
        failures=JOB_FAILURES,  # every ImageRejected is one of them
    ),
}  # fmt: skip


@router.post("/upscale/", include_in_schema=False, status_code=202)
@router.post(
    "/upscale",
    status_code=202,
    response_model=JobView,
    responses=_RESPONSES,
    openapi_extra=_REQUEST,
)
async def create_job(
    request: Request,
    services: ServicesDep,
    owner: Owner,
    prefer: Prefer,
    idempotency_key: Annotated[
        str | None,
        Header(description="Idempotency key: repeats within 24 h return the same job"),
    ] = None,
    cache_control: Annotated[  # noqa: ARG001 - declared here, read by cache.bypasses_cache
        str | None, Header(description="`no-cache`: ignore cached results")
    ] = None,
) -> Response:
    """Queue one picture, sent as the body or as the multipart field `image`."""
    query = ("query", request.query_params.multi_items())
    accepted = ",".join(request.headers.getlist("Accept"))
    with services.counting_rejections():
        key = read_key(idempotency_key)
        await services.gate.check(owner, key)
        counted = await run_in_threadpool(services.rate.count, owner)
        # reject invalid query parameters before reading the picture
        read_fields(UpscaleFields, query)

        def accept(upload: Upload) -> Job:
            fields = read_fields(UpscaleFields, query, (upload.place, upload.fields))
            try:
                with services.rate.given_back_without_room(counted):
                    return accept_once(
                        services, request, upload, fields, owner, accept=accepted, key=key
                    )
            except (errors.ImageUnsupported, errors.ImageCorrupt):
                upload.file.seek(0)
                found = mistake(
                    upload.file.read(HEAD_BYTES),
                    content_type=request.headers.get("Content-Type", ""),
                    named=bool(upload.file_name),
                )
                if found is None:
                    raise
                raise RequestInvalid.of("body", "image", found) from None

        upload = Upload(services.settings.max_upload_bytes)
        job = await receive(request, services, upload, accept)
    status = cache.cache_status(services, request, job)
    logs.job_id.set(job.id)
    wait = preferred_wait(prefer, cap=services.settings.max_wait)
    response = await picture_or_job(job, services, request, wait=wait, at_once=False)
    gave_up = wait and response.status_code == HTTPStatus.ACCEPTED
    if gave_up and _is_anonymous(services, job, key) and await request.is_disconnected():
        await run_in_threadpool(cancel, services, job.id)
        raise ClientDisconnect
    response.headers.update(counted.headers | status)
    if (limit := services.settings.pixels_per_day) is not None:
        # the job is queued; only the rate limit headers are missing
        with suppress(errors.QueueUnavailable):
            pixels = await run_in_threadpool(pixel_headers, services.queue, owner, limit)
            for name, value in pixels.items():
                response.headers.append(name, value)
    return response


async def finished(
    services: Services, request: Request, jobs: Sequence[Job]
) -> list[Job] | Response:
    """Wait until all jobs have succeeded; return them, or the response for one that failed.

    If one fails or the client leaves, the others are cancelled, unless the client has a key and
    can find them.

    Raises JobCancelled or JobExpired, and QueueUnavailable if the service stops.
    """
    succeeded: list[Job] = []
    try:
        for waiting in jobs:
            job = await ended_job(waiting, services, request, Wait(math.inf, {}))
            if job is None and await request.is_disconnected():
                raise ClientDisconnect
            if job is None:
                raise errors.QueueUnavailable("the wait for the job was cut short")
            if job.result is None:
                return result_response(job, services, request)
            await run_in_threadpool(check_kept, job, services.blobs)
            succeeded.append(job)
        return succeeded
    finally:
        for waiting in jobs if len(succeeded) < len(jobs) else ():
            if _is_anonymous(services, waiting, None):
                await run_in_threadpool(cancel, services, waiting.id)


def _is_anonymous(services: Services, job: Job, key: str | None) -> bool:
    """True if the job has no owner, idempotency key or webhook, so that nobody else can find it."""
    known = key or job.spec.owner or job.spec.webhook
    return services.settings.cancel_abandoned and not known


def cancel(services: Services, job_id: str) -> None:
    """Cancel a job that nobody waits for any more; on errors the job keeps running."""
    with suppress(errors.JobNotFound, errors.QueueUnavailable, errors.StorageUnavailable):
        services.blobs.delete(services.queue.cancel(job_id).spec.image.key)


def accept_once(
    services: Services,
    request: Request,
    upload: Upload,
    fields: UpscaleFields,
    owner: str,
    *,
    accept: str = "",
    key: str | None = None,
) -> Job:
    """Return the existing job of the idempotency key or create one. `accept` is the request's
    header if it may choose the format.

    Raises:
        GDSRError: the picture or an option is refused; nothing is stored then.
        ClientDisconnect: the client has left; nothing is stored then.
    """
    services.telemetry.upload_bytes.observe(upload.size)
    job_id = new_job_id()
    idempotency, existing = claim(services, owner, key, upload, fields, job_id)
    if existing is not None:
        return services.queue.get(existing)
    if fields.webhook:
        services.webhooks.target(fields.webhook)
    image, options, model = validate_upload(
        upload.file,
        requested_options(fields, accept=accept),
        services.engines(),
        key=f"inputs/{job_id}",
        size=upload.size,
        sha256=upload.sha256,
        max_pixels=services.settings.largest_picture,
    )
    upload.check_awaited()
    cache_key = copied = None
    if services.settings.cache_results:
        cache_key = cache.cache_key(owner, image, options, model)
        if not cache.bypasses_cache(request):
            copied = cache.copied_result(services, cache_key, job_id, model)
    if copied is None:
        services.blobs.keep(upload.file, image.key)
    stored = (image.key,) if copied is None else copied.keys
    with deleted_if_refused(services.blobs, *stored):
        job = services.queue.submit(
            job_id,
            image,
            options,
            model,
            name=safe_name(fields.name or upload.file_name),
            owner=owner,
            webhook=fields.webhook or None,
            idempotency=idempotency,
            cache_key=cache_key,
            result=copied,
        )
    if job.id != job_id:  # a concurrent request with the same idempotency key was first
        services.blobs.delete(*stored)
    elif copied is not None:
        services.telemetry.cache_hits.inc()
    return job
