"""`POST /upscale`: a picture in, a job out."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.deps import Services, Serving
from service.options import UpscaleFields, described_fields, read_fields
from service.problems import RequestInvalid, documented
from service.results import result_response
from service.uploads import Upload, receive
from service.views import JobView, Links
from service.waiting import ended, preferred_wait
from workers.contract import errors, logs
from workers.contract.engines import choose_model, running
from workers.contract.formats import ResultFormat
from workers.contract.headers import check_header, check_result, read_header
from workers.contract.jobs import ImageInfo, Job, UpscaleOptions, redis_down_is_queue_unavailable
from workers.contract.queue import new_job_id

router = APIRouter(tags=["upscale"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
        for name, schema in described_fields().items()
    ],
    "requestBody": {
        "required": True,
        "description": "The picture: JPEG, PNG, WebP, TIFF, BMP or AVIF, told by its content.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {"image": _BINARY["schema"], **described_fields()},
                }
            },
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
        },
    },
}
_RESPONSES = {
    200: {
        "description": "The finished picture, for `Prefer: wait`",
        "content": {name.media_type: _BINARY for name in ResultFormat},
        "headers": {
            "Content-Location": {
                "description": "The address of the picture",
                "schema": {"type": "string"},
            }
        },
    },
    202: {
        "description": "The job",
        "headers": {
            "Location": {"description": "Where to look again", "schema": {"type": "string"}},
            "Retry-After": {"description": "When, in seconds", "schema": {"type": "integer"}},
            "Preference-Applied": {
                "description": "The wait that was granted",
                "schema": {"type": "string"},
            },
        },
    },
    **documented(
        RequestInvalid, errors.ImageMissing, errors.UploadTooLarge, errors.ImageTooLarge,
        errors.ResultTooLarge, errors.ImageUnsupported, errors.ImageCorrupt, errors.ImageAnimated,
        errors.ColourTooDeep, errors.AlphaNotStorable, errors.ModelUnknown, errors.QueueFull,
        errors.QueueUnavailable, errors.NoWorker, errors.StorageFull,
    ),
}  # fmt: skip


@router.post(
    "/upscale",
    status_code=202,
    response_model=JobView,
    responses=_RESPONSES,
    openapi_extra=_REQUEST,
)
async def create_job(
    request: Request,
    services: Serving,
    prefer: Annotated[
        list[str],
        Header(
            default_factory=list, description="`wait=N`: hold the answer back for up to N seconds"
        ),
    ],
) -> Response:
    """Queue one picture, sent as the body or as the multipart field `image`."""
    query = request.query_params.multi_items()
    with services.telemetry.rejects_counted():
        read_fields(query=query, form=())  # what is wrong already is refused before the picture
        async with receive(
            request, services.blobs, limit=services.settings.max_upload_bytes
        ) as upload:
            fields = read_fields(query=query, form=upload.fields)
            services.telemetry.upload_bytes.observe(upload.size)
            job = await run_in_threadpool(_accept, services, upload, fields)
    logs.job_id.set(job.id)

    links = Links.of(job.id)
    headers = {}
    patience = preferred_wait(prefer, cap=services.settings.max_wait)
    if patience is not None:
        headers["Preference-Applied"] = f"wait={int(patience.total_seconds())}"
        job = await ended(job, services, request, patience=patience)
    if job.ended:
        response = await run_in_threadpool(result_response, job, services.blobs)
        response.headers.update(headers)
        return response
    view = await run_in_threadpool(_view, services, job)
    headers |= {"Location": links.self, "Retry-After": "1"}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)


def _accept(services: Services, upload: Upload, fields: UpscaleFields) -> Job:
    """Make a job of an upload, or raise and leave nothing behind."""
    header = read_header(upload.file)
    check_header(header, max_pixels=services.settings.max_pixels)
    with redis_down_is_queue_unavailable():
        model = choose_model(running(services.queue.client), fields.model)
    check_result(
        width=model.scale * header.width,
        height=model.scale * header.height,
        format=fields.format,
        has_alpha=header.has_alpha,
    )

    job_id = new_job_id()
    image = ImageInfo(
        key=f"inputs/{job_id}",
        size=upload.size,
        sha256=upload.sha256,
        format=header.format,
        width=header.width,
        height=header.height,
    )
    options = UpscaleOptions(
        trade_off=fields.trade_off, model=model.name, format=fields.format, quality=fields.quality
    )
    services.blobs.keep(upload.file, image.key)
    try:
        return services.queue.submit(job_id, image, options, model)
    except BaseException:
        services.blobs.delete(image.key)
        raise


def _view(services: Services, job: Job) -> JobView:
    """A view for a job that was accepted: its place in the queue is no reason to fail."""
    try:
        position = services.queue.position(job)
    except errors.QueueUnavailable:
        position = None
    return JobView.of(job, position=position)
