"""`/batches`: many pictures in one request, and one zip of what became of them."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.batches.results import packed_or_batch
from service.batches.uploads import ARCHIVE_FIELD, BatchSink
from service.batches.views import BatchState, BatchView
from service.http.openapi import (
    ARCHIVE,
    BATCH_LINKS,
    BINARY,
    OF_A_FAILED_BATCH,
    OF_THE_OWNER,
    bodiless,
    documented,
    headers,
    merged,
)
from service.http.problems import RequestInvalid
from service.jobs.erasing import erase
from service.jobs.idempotency import fingerprint, read_key
from service.jobs.options import UpscaleFields, described_fields, read_fields, wished
from service.services import Owner, Services, Serving, own_batch
from service.transfer.uploads import Upload, deleted_if_refused, receive
from workers.contract import errors
from workers.contract.images.names import safe_name
from workers.contract.images.zips import open_archive, picture_entries
from workers.contract.queue.batches import Batch
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.engines import choose_model, running
from workers.contract.queue.idempotency import Claim
from workers.contract.queue.queue import new_job_id
from workers.contract.queue.validation import Wishes

router = APIRouter(prefix="/batches", tags=["batches"])

#: What each part of a form may add to its picture.
_PART_OVERHEAD_BYTES = 2048

_REQUEST = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
        for name, schema in described_fields().items()
    ],
    "requestBody": {
        "required": True,
        "description": "One zip, or a form of several pictures or of one zip. What is in the zip "
        "is told by content; what is no picture fails alone.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "array", "items": BINARY["schema"]},
                        ARCHIVE_FIELD: BINARY["schema"],
                        **described_fields(),
                    },
                }
            },
            "application/zip": BINARY,
            "application/octet-stream": BINARY,
        },
    },
}
_ACCEPTED = merged(
    {
        202: {
            "description": "The batch",
            "headers": headers("Location", "Retry-After", "RateLimit", "RateLimit-Policy"),
            "links": BATCH_LINKS,
        }
    },
    documented(
        *OF_THE_OWNER, errors.RateExceeded, RequestInvalid, errors.DigestMismatch,
        errors.ArchiveInvalid, errors.BatchEmpty, errors.BatchTooLarge, errors.ModelUnknown,
        errors.NoWorker, errors.QueueFull, errors.WebhooksOff, errors.WebhookNotAllowed,
        errors.StorageFull, errors.StorageUnavailable,
        errors.IdempotencyKeyReused, errors.BatchNotFound,
    ),
)  # fmt: skip
_NOT_THERE = documented(*OF_THE_OWNER, errors.BatchNotFound, plain=("not-found",))
_RESULT = merged(
    ARCHIVE,
    {
        202: {
            "description": "The zip is being made",
            "model": BatchView,
            "headers": headers("Location", "Retry-After", "Preference-Applied"),
            "links": BATCH_LINKS,
        }
    },
    _NOT_THERE,
    documented(
        errors.BatchNotFinished, errors.BatchExpired, errors.QueueFull,
        plain=("requested-range-not-satisfiable",),
    ),
    OF_A_FAILED_BATCH,
)  # fmt: skip


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
    services: Serving,
    owner: Owner,
    idempotency_key: Annotated[
        str | None,
        Header(description="A word of the client's: all requests with it within a day are one"),
    ] = None,
) -> Response:
    """Queue many pictures with the same options: several multipart fields `image`, or one zip.

    The upload is taken as a whole, and unpacked by a worker. Each of its files becomes a job, or
    an item that says why not. If the queue has no room for all of them, or the key no pixels left,
    the batch fails and none is queued.
    """
    query = request.query_params.multi_items()
    accepted = ",".join(request.headers.getlist("Accept"))
    settings = services.settings
    with services.telemetry.rejects_counted():
        rate = await run_in_threadpool(_count, services, owner, 1)
        key = read_key(idempotency_key)
        read_fields(query=query, form=())  # what is wrong already is refused before the pictures

        def accept(upload: Upload) -> tuple[Batch, dict[str, str]]:
            fields = read_fields(query=query, form=upload.fields)
            services.telemetry.upload_bytes.observe(upload.size)
            wishes = wished(fields, accept=accepted)
            return _accept_once(services, upload, fields, wishes, owner, key)

        batch, more = await receive(
            request,
            services.blobs,
            accept,
            limit=settings.max_batch_bytes,
            overhead=_PART_OVERHEAD_BYTES * (settings.max_batch_pictures + 32),
            sink=BatchSink(settings.max_batch_bytes, max_pictures=settings.max_batch_pictures),
        )
    view = await run_in_threadpool(_view, services, batch)
    told = {"Location": view.links.self, "Retry-After": "1", **(more or rate)}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=told)


def _count(services: Services, owner: str, pictures: int) -> dict[str, str]:
    return {} if services.rate is None else services.rate.count(owner, pictures=pictures)


def _accept_once(
    services: Services,
    upload: Upload,
    fields: UpscaleFields,
    wishes: Wishes,
    owner: str,
    key: str | None,
) -> tuple[Batch, dict[str, str]]:
    """The batch that the key stands for, or a new one; and what is left of the rate."""
    batch_id = new_job_id()
    if key is None:
        return _accept(services, upload, fields, wishes, batch_id, owner, None)
    claim = Claim(
        owner=owner, key=key, fingerprint=fingerprint(upload.sha256, fields), job_id=batch_id
    )
    with redis_down_is_queue_unavailable():
        standing = claim.standing(services.queue.client)
    if standing is None:
        return _accept(services, upload, fields, wishes, batch_id, owner, claim)
    return services.batches.get(standing), {}


def _accept(
    services: Services,
    upload: Upload,
    fields: UpscaleFields,
    wishes: Wishes,
    batch_id: str,
    owner: str,
    claim: Claim | None,
) -> tuple[Batch, dict[str, str]]:
    """Make a batch of an upload, or raise and leave nothing behind. Only the directory of the zip
    is read.
    """
    settings = services.settings
    if fields.webhook:
        services.webhooks.target(fields.webhook)
    entries = picture_entries(
        open_archive(upload.file),
        max_pictures=settings.max_batch_pictures,
        max_bytes=settings.max_batch_bytes,
    )
    with redis_down_is_queue_unavailable():
        choose_model(running(services.queue.client), fields.model)
    more = _count(services, owner, len(entries) - 1) if len(entries) > 1 else {}
    upload_key = f"inputs/{batch_id}"
    services.blobs.keep(upload.file, upload_key)
    with deleted_if_refused(services.blobs, upload_key):
        batch = services.batches.submit(
            batch_id,
            wishes,
            size=upload.size,
            pictures=len(entries),
            largest=sum(entry.file_size for entry in entries),
            webhook=fields.webhook or None,
            name=safe_name(fields.name or upload.file_name),
            owner=owner,
            claim=claim,
        )
    if batch.id != batch_id:  # another request with this key was quicker
        services.blobs.delete(upload_key)
    return batch, more


@router.get(
    "/{batch_id}",
    response_model=BatchView,
    responses=merged(
        {
            200: {
                "description": "The batch as it is now",
                "headers": headers("Retry-After"),
                "links": BATCH_LINKS,
            }
        },
        _NOT_THERE,
    ),
)
def read_batch(batch_id: str, services: Serving, owner: Owner) -> Response:
    """How a batch is doing, and each of its pictures."""
    view = _view(services, own_batch(services, batch_id, owner))
    under_way = view.state in (BatchState.UNPACKING, BatchState.RUNNING)
    told = {"Cache-Control": "private, no-cache", **({"Retry-After": "1"} if under_way else {})}
    return Response(view.model_dump_json(), headers=told, media_type="application/json")


@router.head(
    "/{batch_id}/result",
    operation_id="head_batch_result",
    response_class=Response,
    responses=bodiless(_RESULT),
)
@router.get("/{batch_id}/result", response_class=Response, responses=_RESULT)
async def read_batch_result(
    batch_id: str,
    services: Serving,
    owner: Owner,
    request: Request,
    prefer: Annotated[
        list[str], Header(default_factory=list, description="`wait=N`, for the zip to be made")
    ],
    if_none_match: Annotated[  # noqa: ARG001 - declared here, read by client_has
        str | None, Header(description="Entity tags that the client has")
    ] = None,
    range: Annotated[  # noqa: A002, ARG001 - the same
        str | None, Header(description="The part to send, as `bytes=0-1023`")
    ] = None,
) -> Response:
    """One zip of all results, once no job is under way; for a failed batch its failure.

    The names are those of the pictures, in their folders. A picture that failed is a text file of
    its name, which says why. A worker packs the zip when it is first asked for.
    """
    batch = await run_in_threadpool(own_batch, services, batch_id, owner)
    return await packed_or_batch(batch, services, request, prefer=prefer)


@router.delete(
    "/{batch_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "What was under way is cancelled, and all of it is erased"},
        **merged(_NOT_THERE, documented(errors.StorageUnavailable)),
    },
)
def delete_batch(batch_id: str, services: Serving, owner: Owner) -> Response:
    """Cancel the jobs of a batch that have not ended, and erase all of it."""
    batch = own_batch(services, batch_id, owner)
    if batch.items is None and not services.batches.stop(batch_id):
        batch = own_batch(services, batch_id, owner)  # a worker has queued its jobs meanwhile
    services.blobs.delete(batch.spec.upload_key)
    for job_id in batch.job_ids:
        with suppress(errors.JobNotFound):
            erase(services, services.queue.cancel(job_id))
    services.blobs.delete(*services.batches.forget_pack(batch_id))
    services.batches.erase(batch)
    return Response(status_code=204)


def _view(services: Services, batch: Batch) -> BatchView:
    return BatchView.of(batch, services.queue.get_many(batch.job_ids))
