"""The upscaling routes of Automatic1111's web UI: pictures in base64, in and out."""

import base64
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.http.openapi import OF_THE_OWNER, Responses, documented
from service.http.problems import JOB_FAILURES, Fault, RequestInvalid
from service.jobs.options import UpscaleFields, described_fields, read_fields
from service.jobs.upscale import PROBLEMS, accept_once, cancel, finished
from service.services import Owner, Services, ServicesDep
from service.transfer.incoming import IMAGE_FIELD, Upload
from service.transfer.json_body import MAX_BYTES, decoded_base64
from workers.contract import errors
from workers.contract.errors import BatchTooLarge, ImageMissing, UploadTooLarge
from workers.contract.images.options import SCALE
from workers.contract.queue.jobs import Job
from workers.contract.validation_messages import error_message

router = APIRouter(prefix="/sdapi/v1", tags=["compat"])

#: Positions of the slider, by the names of upscalers; an upscaler is a position of a model.
_POSITIONS = {"GDSR faithful": "0", "GDSR balanced": "0.5", "GDSR crisp": "1"}


class _Named(BaseModel):
    data: str
    name: str = Field(default="", max_length=255)


class _Options(BaseModel):
    """Options of both routes; those that the network does not have must be off."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    resize_mode: int = Field(default=0, ge=0, le=1)
    """0: by `upscaling_resize`; 1: to fit into `upscaling_resize_w` and `_h`."""
    upscaling_resize: float = Field(default=2, ge=1, le=SCALE)
    """Scale factor."""
    upscaling_resize_w: int = Field(default=512, ge=1, le=1_000_000)
    """Maximum width."""
    upscaling_resize_h: int = Field(default=512, ge=1, le=1_000_000)
    """Maximum height."""
    upscaling_crop: bool = True
    """Not supported: false with `resize_mode` 1."""
    upscaler_1: str = Field(default="None", examples=["GDSR balanced"])
    """One of `GET /sdapi/v1/upscalers`."""
    extras_upscaler_2_visibility: Annotated[float, Field(ge=0, le=0)] = 0
    gfpgan_visibility: Annotated[float, Field(ge=0, le=0)] = 0
    codeformer_visibility: Annotated[float, Field(ge=0, le=0)] = 0

    def fields(self) -> UpscaleFields:
        """The options of `/upscale`.

        Raises:
            RequestInvalid: there is no such upscaler, or pictures should be cropped.
        """
        size = [("scale", str(self.upscaling_resize))]
        if self.resize_mode == 1:
            if self.upscaling_crop:
                raise RequestInvalid.of("body", "upscaling_crop", "not supported; send false")
            size = [
                ("width", str(self.upscaling_resize_w)),
                ("height", str(self.upscaling_resize_h)),
            ]
        name, _, model = self.upscaler_1.removesuffix(")").partition(" (")
        if name not in _POSITIONS:
            names = ", ".join(_POSITIONS)
            raise RequestInvalid.of("body", "upscaler_1", f"give one of {names}")
        choice = [("trade_off", _POSITIONS[name]), ("model", model), *size]
        return read_fields(UpscaleFields, ("body", choice))


class SinglePicture(_Options):
    """The body of `extra-single-image`."""

    image: str
    """In base64, or as a data URI."""

    @property
    def pictures(self) -> dict[str, _Named]:
        return {"image": _Named(data=self.image)}


class Pictures(_Options):
    """The body of `extra-batch-images`."""

    image_list: list[_Named] = Field(alias="imageList")
    """The pictures, in base64 or as data URIs."""

    @property
    def pictures(self) -> dict[str, _Named]:
        return {f"imageList.{at}.data": one for at, one in enumerate(self.image_list)}


class Upscaler(BaseModel):
    """A name that `upscaler_1` may have."""

    name: str
    model_name: None = None
    model_path: None = None
    model_url: None = None
    scale: int = SCALE


def _request(kind: type[BaseModel], picture: str) -> dict[str, Any]:
    schema = {"type": "object", "required": [picture], "properties": described_fields(kind)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _responses(name: str, schema: dict[str, Any], *more: type[errors.GDSRError]) -> Responses:
    properties = {"html_info": {"const": ""}, name: schema}
    described = {"type": "object", "required": list(properties), "properties": properties}
    content = {"application/json": {"schema": described}}
    problems = documented(*PROBLEMS, *more, failures=JOB_FAILURES)
    return {200: {"description": "In base64", "content": content}, **problems}


_PICTURE = {"type": "string", "contentEncoding": "base64"}


@router.get("/upscalers", responses=documented(*OF_THE_OWNER))
def list_upscalers(services: ServicesDep, owner: Owner) -> list[Upscaler]:  # noqa: ARG001
    """The names that `upscaler_1` may have."""
    models = sorted({model.name for engine in services.engines() for model in engine.models})
    of_models = [f"{name} ({model})" for model in models for name in _POSITIONS]
    return [Upscaler(name=name) for name in (*_POSITIONS, *of_models)]


@router.post(
    "/extra-single-image",
    response_class=Response,
    responses=_responses("image", _PICTURE),
    openapi_extra=_request(SinglePicture, "image"),
)
async def upscale_one(request: Request, services: ServicesDep, owner: Owner) -> Response:
    """Enlarge one picture and wait for it."""
    around = (b'{"html_info": "", "image": ', b"}")
    return await _enlarged(request, services, owner, SinglePicture, around)


@router.post(
    "/extra-batch-images",
    response_class=Response,
    responses=_responses("images", {"type": "array", "items": _PICTURE}, errors.BatchTooLarge),
    openapi_extra=_request(Pictures, "imageList"),
)
async def upscale_many(request: Request, services: ServicesDep, owner: Owner) -> Response:
    """Enlarge several pictures and wait for all of them."""
    around = (b'{"html_info": "", "images": [', b"]}")
    return await _enlarged(request, services, owner, Pictures, around)


async def _enlarged(
    request: Request,
    services: Services,
    owner: str,
    kind: type[SinglePicture | Pictures],
    around: tuple[bytes, bytes],
) -> Response:
    """Queue the pictures of a body; respond with their results, between the texts `around`."""
    with services.counting_rejections():
        await services.gate.check(owner, None)
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BYTES:
                raise UploadTooLarge(limit=MAX_BYTES)
        try:
            body = kind.model_validate_json(bytes(data))
        except ValidationError as invalid:
            raise RequestInvalid(
                [
                    Fault(place="body", name=name or "json", message=error_message(found))
                    for found in invalid.errors()
                    for name in [".".join(map(str, found["loc"]))]
                ]
            ) from None
        jobs = await run_in_threadpool(_submit, services, request, owner, body)
    done = await finished(services, request, jobs)
    if isinstance(done, Response):
        return done

    def pieces() -> Iterator[bytes]:
        yield around[0]
        for number, job in enumerate(done):
            yield b', "' if number else b'"'
            left = b""  # a piece at a time, so that a result of any size takes little memory
            for piece in services.blobs.stream(job.result.key) if job.result else ():
                data = left + piece
                whole = len(data) - len(data) % 3
                left = data[whole:]
                yield base64.b64encode(data[:whole])
            yield base64.b64encode(left)
            yield b'"'
        yield around[1]

    return StreamingResponse(pieces(), media_type="application/json")


def _submit(
    services: Services, request: Request, owner: str, body: SinglePicture | Pictures
) -> list[Job]:
    """Queue all pictures, or none."""
    fields, pictures = body.fields(), body.pictures
    most = services.settings.max_batch_pictures
    if len(pictures) > most:
        raise BatchTooLarge(limit=most, of="pictures")
    if not pictures:
        raise ImageMissing
    counted = services.rate.count(owner, len(pictures))
    decoded = [(decoded_base64(name, one.data), one.name) for name, one in pictures.items()]
    jobs: list[Job] = []
    try:
        with services.rate.given_back_without_room(counted):
            for data, name in decoded:
                jobs.append(_accept(services, request, data, name, fields, owner))
    except BaseException:
        for job in jobs:
            cancel(services, job.id)
        raise
    return jobs


def _accept(
    services: Services, request: Request, data: bytes, name: str, fields: UpscaleFields, owner: str
) -> Job:
    upload = Upload(services.settings.max_upload_bytes)
    with services.blobs.incoming() as file:
        upload.open(file)
        upload.begin(IMAGE_FIELD, name)
        upload.write(data)
        upload.end()
        return accept_once(services, request, upload, fields, owner)
