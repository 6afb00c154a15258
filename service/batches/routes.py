"""`/batches`: many pictures in one request, one zip with all results."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.batches.derived import derived_batch
from service.batches.results import batch_view, packed_or_batch
from service.batches.uploads import ARCHIVE_FIELD, BatchUpload, FieldsUpload
from service.batches.views import BatchState, BatchView
from service.http import openapi
from service.http.problems import BATCH_FAILURES, NotFound, RangeNotSatisfiable, RequestInvalid
from service.jobs.erasing import erase_batch
from service.jobs.idempotency import claim, read_key
from service.jobs.options import (
    ResultFields,
    UpscaleFields,
    described_request,
    read_fields,
    requested_options,
)
from service.services import OwnBatch, Owner, Services, ServicesDep, own_batch
from service.transfer.downloads import ByteRange, IfNoneMatch, Prefer
from service.transfer.incoming import Upload
from service.transfer.uploads import deleted_if_refused, receive
from workers.contract import errors
from workers.contract.images.names import safe_name
from workers.contract.images.zips import open_archive, picture_entries
from workers.contract.queue.batch_queue import zip_time_limit
from workers.contract.queue.batches import Batch, BatchSpec
from workers.contract.queue.engines import choose_model
from workers.contract.queue.queue import new_job_id
from workers.contract.queue.validation import RequestedOptions

router = APIRouter(prefix="/batches", tags=["batches"])

_REQUEST = described_request(
    UpscaleFields,
    "One zip, or a form with several pictures or with one zip. File types are detected from the "
    "contents; a file that is not a picture fails alone.",
    files={
        "image": {"type": "array", "items": openapi.BINARY["schema"]},
        ARCHIVE_FIELD: openapi.BINARY["schema"],
    },
    more={"application/zip": openapi.BINARY, "application/octet-stream": openapi.BINARY},
    required=True,
)
_ACCEPTED = {
    **openapi.pending("The batch", BatchView, openapi.BATCH_LINKS, "RateLimit", "RateLimit-Policy"),
    **openapi.documented(
        *openapi.OF_THE_OWNER, errors.RateExceeded, RequestInvalid, errors.DigestMismatch,
        errors.ArchiveInvalid, errors.BatchEmpty, errors.BatchTooLarge, errors.ModelUnknown,
        errors.NoWorker, errors.QueueFull, errors.WebhooksOff, errors.WebhookNotAllowed,
        errors.StorageFull, errors.StorageUnavailable,
        errors.IdempotencyKeyReused, errors.BatchNotFound,
    ),
}  # fmt: skip
_NOT_THERE = (*openapi.OF_THE_OWNER, errors.BatchNotFound, NotFound)
_RESULT_PROBLEMS = (
    *_NOT_THERE, errors.BatchNotFinished, errors.BatchExpired, errors.QueueFull,
    errors.StorageUnavailable,
)  # fmt: skip
_RESULT = {
    **openapi.ARCHIVE,
    **openapi.pending(
        "The zip is being packed", BatchView, openapi.BATCH_LINKS, "Preference-Applied"
    ),
    **openapi.documented(*_RESULT_PROBLEMS, RangeNotSatisfiable, failures=BATCH_FAILURES),
}  # fmt: skip
_DERIVED = {
    200: openapi.ARCHIVE[200],
    307: openapi.ARCHIVE[307],
    **openapi.pending(
        "The batch of derived results, while its jobs run or its zip is packed",
        BatchView, openapi.BATCH_LINKS, "Preference-Applied",
    ),
    **openapi.documented(
        *_RESULT_PROBLEMS, RequestInvalid, errors.BranchesNotKept, errors.RateExceeded,
        errors.PixelsExceeded, errors.BatchTooLarge, failures=BATCH_FAILURES,
    ),
}  # fmt: skip
_DERIVED_REQUEST = described_request(ResultFields, "The fields, if they are not in the query")


@router.post("/", include_in_schema=False, status_code=202)
@router.post(
    "",
    status_code=202,
    response_model=BatchView,
    responses=_ACCEPTED,
    openapi_extra=_REQUEST,
)
async def create_batch(
    request: Request,
    services: ServicesDep,
    owner: Owner,
    idempotency_key: Annotated[
        str | None,
        Header(description="Idempotency key: repeats within 24 h return the same batch"),
    ] = None,
) -> Response:
    """Queue many pictures with the same options: several multipart fields `image`, or one zip.

    A worker unpacks the upload. Each file becomes a job, or an item with a failure. If the queue
    cannot hold all of them, or the pixel quota of the API key is exceeded, the batch fails and
    nothing is queued.
    """
    query = ("query", request.query_params.multi_items())
    accepted = ",".join(request.headers.getlist("Accept"))
    settings = services.settings
    with services.counting_rejections():
        key = read_key(idempotency_key)
        await services.gate.check(owner, key)
        counted = await run_in_threadpool(services.rate.count, owner)
        # reject invalid query parameters before reading the upload
        read_fields(UpscaleFields, query)

        def accept(upload: Upload) -> tuple[Batch, dict[str, str]]:
            fields = read_fields(UpscaleFields, query, (upload.place, upload.fields))
            services.telemetry.upload_bytes.observe(upload.size)
            requested = requested_options(fields, accept=accepted)
            with services.rate.given_back_without_room(counted):
                return _accept_once(services, upload, fields, requested, owner, key)

        upload = BatchUpload(settings.max_batch_bytes, max_pictures=settings.max_batch_pictures)
        batch, more = await receive(request, services, upload, accept)
    view = await run_in_threadpool(batch_view, services, batch)
    sent = {"Location": view.links.self, "Retry-After": "1", **(more or counted.headers)}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=sent)


def _accept_once(
    services: Services,
    upload: Upload,
    fields: UpscaleFields,
    requested: RequestedOptions,
    owner: str,
    key: str | None,
) -> tuple[Batch, dict[str, str]]:
    """Return the existing batch of the idempotency key or create one; also the rate limit headers.

    Reads only the zip's directory. On an error nothing is stored.
    """
    settings, batch_id = services.settings, new_job_id()
    idempotency, existing = claim(services, owner, key, upload, fields, batch_id)
    if existing is not None:
        return services.batches.get(existing), {}
    if fields.webhook:
        services.webhooks.target(fields.webhook)
    entries = picture_entries(
        open_archive(upload.file),
        max_pictures=settings.max_batch_pictures,
        max_bytes=settings.max_batch_bytes,
    )
    choose_model(services.engines(), fields.model)
    more = services.rate.count(owner, len(entries), counted=1)
    upload.check_awaited()
    spec = BatchSpec(
        id=batch_id,
        owner=owner,
        name=safe_name(fields.name or upload.file_name),
        webhook=fields.webhook or None,
        size=upload.size,
        pictures=len(entries),
        requested=requested,
        pixels_per_day=settings.pixels_per_day,
        time_limit=zip_time_limit(sum(entry.file_size for entry in entries)),
    )
    services.blobs.keep(upload.file, spec.upload_key)
    with (
        services.rate.given_back_without_room(more),
        deleted_if_refused(services.blobs, spec.upload_key),
    ):
        batch = services.batches.submit(spec, idempotency=idempotency)
    if batch.id != batch_id:  # a concurrent request with the same idempotency key was first
        services.blobs.delete(spec.upload_key)
    return batch, more.headers


@router.get(
    "/{batch_id}",
    response_model=BatchView,
    responses={
        200: {
            "description": "The current state of the batch",
            "headers": openapi.headers("Retry-After"),
            "links": openapi.BATCH_LINKS,
        },
        **openapi.documented(*_NOT_THERE),
    },
)
def read_batch(batch: OwnBatch, services: ServicesDep) -> Response:
    """State of a batch and of each of its pictures."""
    view = batch_view(services, batch)
    under_way = view.state in (BatchState.UNPACKING, BatchState.RUNNING)
    sent = {"Cache-Control": "private, no-cache", **({"Retry-After": "1"} if under_way else {})}
    return Response(view.model_dump_json(), headers=sent, media_type="application/json")


@router.head(
    "/{batch_id}/result",
    operation_id="head_batch_result",
    response_class=Response,
    responses=openapi.bodiless(_RESULT),
)
@router.get("/{batch_id}/result", response_class=Response, responses=_RESULT)
async def read_batch_result(
    batch: OwnBatch,
    services: ServicesDep,
    request: Request,
    prefer: Prefer,
    if_none_match: IfNoneMatch = None,  # noqa: ARG001 - declared here, read by etag_matches
    range: ByteRange = None,  # noqa: A002, ARG001 - the same
) -> Response:
    """All results in one zip, once every job has ended; for a failed batch, its failure.

    File names and folders are those of the pictures. A picture that failed is replaced by a text
    file with the reason. A worker packs the zip on the first request.
    """
    return await packed_or_batch(batch, services, request, prefer=prefer)


@router.post(
    "/{batch_id}/result",
    response_class=Response,
    responses=_DERIVED,
    openapi_extra=_DERIVED_REQUEST,
)
async def derive_batch_result(
    batch_id: str,
    services: ServicesDep,
    owner: Owner,
    request: Request,
    prefer: Prefer,
) -> Response:
    """A batch of derived results of a finished batch, without running the network again: another
    slider position, format, region or size of each picture, in one zip.

    Equal requests return the same batch, which is erased with the first one. A picture that failed,
    or that the format cannot hold, fails alone.
    """
    query = ("query", request.query_params.multi_items())
    with services.counting_rejections():
        read_fields(ResultFields, query)
        batch = await run_in_threadpool(own_batch, services, batch_id, owner)

        def accept(upload: Upload) -> Batch:
            fields = read_fields(ResultFields, query, (upload.place, upload.fields))
            return derived_batch(services, batch, fields)

        if batch.failure is None:
            batch = await receive(request, services, FieldsUpload(), accept)
    return await packed_or_batch(batch, services, request, prefer=prefer, made=True)


@router.delete(
    "/{batch_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "Pending jobs are cancelled, and everything is deleted"},
        **openapi.documented(*_NOT_THERE, errors.StorageUnavailable),
    },
)
def delete_batch(batch: OwnBatch, services: ServicesDep) -> Response:
    """Cancel the pending jobs of a batch and delete it with all its files."""
    if batch.items is None and not services.batches.stop(batch.id):
        batch = services.batches.get(batch.id)  # a worker has queued its jobs in the meantime
    erase_batch(services, batch)
    return Response(status_code=204)
