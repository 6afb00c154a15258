"""`POST /v1/images/upscale` as in LocalAI, with the response of OpenAI's image routes."""

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.http.openapi import BINARY, documented, form
from service.http.problems import JOB_FAILURES, RequestInvalid
from service.jobs.options import FIELDS, UpscaleFields, read_fields
from service.jobs.upscale import PROBLEMS, accept_once, finished
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
    query = ("query", request.query_params.multi_items())
    with services.counting_rejections():
        await services.gate.check(owner, None)
        counted = await run_in_threadpool(services.rate.count, owner)

        def accept(upload: Upload) -> Job:
            with services.rate.given_back_without_room(counted):
                fields = _choice(query, (upload.place, upload.fields))
                return accept_once(services, request, upload, fields, owner)

        upload = Upload(services.settings.max_upload_bytes)
        job = await receive(request, services, upload, accept)
    jobs = await finished(services, request, [job])
    if isinstance(jobs, Response):
        return jobs
    url = f"{request.url.scheme}://{request.url.netloc}{Links.of(job.id).result}"
    return Images(id=job.id, created=int(time.time()), data=[Address(url=url)])


def _choice(*sources: tuple[str, Sequence[tuple[str, str]]]) -> UpscaleFields:
    for place, fields in sources:
        for name, _ in fields:
            if name not in _FIELDS:
                raise RequestInvalid.of(place, name, "unknown field")
    given = [(place, [field for field in fields if field[1]]) for place, fields in sources]
    chosen = read_fields(UpscaleFields, *given)
    if not chosen.model:
        place, _ = sources[-1]
        raise RequestInvalid.of(place, "model", "missing; GET /models lists the models")
    return chosen.model_copy(update={"scale": chosen.scale or 2.0})
