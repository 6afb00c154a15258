"""`POST /v1/images/upscale` as in LocalAI, with the response of OpenAI's image routes."""

import time

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.compat.jobs import PROBLEMS, finished
from service.http.openapi import BINARY, documented, form
from service.http.problems import JOB_FAILURES, RequestInvalid
from service.jobs.options import FIELDS, UpscaleFields, read_fields
from service.jobs.upscale import accept_once
from service.services import Owner, ServicesDep
from service.transfer.incoming import Upload
from service.transfer.uploads import receive
from service.views import Links
from workers.contract.queue.jobs import Job

router = APIRouter(tags=["compat"])

_FIELDS = {"model", "scale"}
_DESCRIBED = {"image": BINARY["schema"], **{name: FIELDS[name] for name in _FIELDS}}
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": form(_DESCRIBED, "image", "model")},
    }
}


class Address(BaseModel):
    """Address of a result."""

    url: str


class Images(BaseModel):
    """A response as of OpenAI's image routes."""

    id: str
    created: int
    """Unix time."""
    data: list[Address]


@router.post(
    "/v1/images/upscale",
    response_model=Images,
    responses=documented(*PROBLEMS, failures=JOB_FAILURES),
    openapi_extra=_REQUEST,
)
async def upscale_image(request: Request, services: ServicesDep, owner: Owner) -> Images | Response:
    """Enlarge the picture in the field `image` by `scale` (default 2, at most 4)."""
    with services.counting_rejections():
        await services.gate.check(owner, None)
        counted = await run_in_threadpool(services.rate.count, owner)

        def accept(upload: Upload) -> Job:
            with services.rate.given_back_without_room(counted):
                return accept_once(services, request, upload, _choice(upload), owner)

        upload = Upload(services.settings.max_upload_bytes)
        job = await receive(request, services.blobs, upload, accept)
    jobs = await finished(services, request, [job])
    if isinstance(jobs, Response):
        return jobs
    url = f"{request.url.scheme}://{request.url.netloc}{Links.of(job.id).result}"
    return Images(id=job.id, created=int(time.time()), data=[Address(url=url)])


def _choice(upload: Upload) -> UpscaleFields:
    given = dict(upload.fields)
    for name in given.keys() - _FIELDS:
        raise RequestInvalid.of(upload.place, name, "unknown field")
    if not given.get("model"):
        raise RequestInvalid.of("form", "model", "missing; GET /models lists the models")
    size = ("scale", given.get("scale") or "2")
    return read_fields(UpscaleFields, (upload.place, [("model", given["model"]), size]))
