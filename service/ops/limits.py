"""`/limits` and `/models`: accepted inputs, result formats, limits and available models."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from service.http.openapi import documented
from service.services import ServicesDep
from service.transfer.multipart import MAX_FIELD_BYTES, MAX_FIELDS
from service.views import View
from workers.contract.errors import QueueUnavailable
from workers.contract.images.formats import EXTRA_FORMATS, ImageFormat, ResultFormat
from workers.contract.images.maps import MAX_MAP_BYTES, MAX_MAP_PIXELS
from workers.contract.queue.engines import extra_formats
from workers.contract.queue.jobs import STOPS

router = APIRouter(tags=["models"])


class OutputFormatView(View):
    """A result format."""

    name: ResultFormat = Field(validation_alias="value")
    media_type: str
    max_side: int
    """Maximum width and height of a result."""
    max_result_pixels: int | None = Field(validation_alias="max_pixels")
    """Maximum number of pixels; null if only the sides are limited."""
    max_bits: int
    """Maximum bits per sample: 8 or 16."""
    lossless: bool = Field(validation_alias="may_be_lossless")
    """True if the format can be lossless."""


class LimitsView(View):
    """All limits and formats."""

    max_upload_bytes: int
    max_pixels: int
    """Maximum width x height of the input."""
    max_batch_pictures: int
    """Maximum number of pictures in a batch."""
    max_batch_bytes: int
    """Maximum bytes of a batch upload, and of its unpacked contents."""
    max_map_pixels: int
    """Maximum width x height of a map."""
    max_map_bytes: int
    max_queued_jobs: int
    max_queued_pixels: int
    pixels_per_day: int | None
    """Input pixels per API key and UTC day."""
    rate_limit: str | None
    """Requests per API key, such as `60/minute`."""
    webhooks: bool
    """True if webhooks are available, for the hosts that the operator allows."""
    max_wait_seconds: float
    """Maximum of `Prefer: wait`."""
    max_form_fields: int
    max_field_bytes: int
    result_ttl_seconds: float
    """How long a result is kept."""
    record_ttl_seconds: float
    """Lifetime of the record of an ended job."""
    input_formats: tuple[ImageFormat, ...]
    output_formats: tuple[OutputFormatView, ...]
    trade_off_stops: dict[str, float]
    """Named slider positions."""


class ModelDevice(View):
    """A model on one device."""

    device: str
    precision: str
    """Number format of 8-bit results; `pending` until the model is first loaded."""

    compiled: bool
    """True if the network is compiled for the device."""

    backend: str
    """Library that runs the network: `torch`, or `openvino` on some CPUs."""

    seconds_by_backend: dict[str, float]
    """CPU seconds per tile of each library, from a trial; empty if there was none."""

    pixels_per_second: dict[str, float]
    """Input pixels per second for psnr, fused and gan, measured when the model was loaded; while
    its precision is pending, an estimate from the default model."""


class ModelView(View):
    """An available model."""

    name: str
    default: bool
    """True if it is used for requests that name no model."""
    preset: str
    scale: int
    sha256: str
    """SHA-256 of the checkpoint file."""
    card: dict[str, Any]
    """Model card: training run, data, scores, licence."""
    devices: tuple[ModelDevice, ...] = Field(min_length=1)


@router.get("/limits")
def read_limits(services: ServicesDep) -> LimitsView:
    """All limits, and the formats that every running worker supports.

    The names are those of `limits` in problem documents.
    """
    settings = services.settings
    extras: tuple[ImageFormat, ...] = ()
    with suppress(QueueUnavailable):
        extras = extra_formats(services.engines())
    return LimitsView(
        **settings.model_dump(include=set(LimitsView.model_fields) - {"max_pixels"}),
        max_pixels=settings.largest_picture,
        max_map_pixels=MAX_MAP_PIXELS,
        max_map_bytes=MAX_MAP_BYTES,
        webhooks=bool(services.webhooks),
        max_wait_seconds=settings.max_wait.total_seconds(),
        max_form_fields=MAX_FIELDS,
        max_field_bytes=MAX_FIELD_BYTES,
        result_ttl_seconds=settings.result_ttl.total_seconds(),
        record_ttl_seconds=settings.record_ttl.total_seconds(),
        input_formats=tuple(
            name for name in ImageFormat if name not in EXTRA_FORMATS or name in extras
        ),
        output_formats=tuple(
            OutputFormatView.model_validate(name)  # from its attributes
            for name in ResultFormat
            if name is not ResultFormat.JXL or ImageFormat.JXL in extras
        ),
        trade_off_stops=STOPS,
    )


@router.get("/models", responses=documented(QueueUnavailable))
def read_models(services: ServicesDep) -> list[ModelView]:
    """The models loaded by running engines; empty if no engine runs."""
    engines = services.engines()
    views: dict[str, dict[str, Any]] = {}
    for engine in engines:
        for model in engine.models:
            devices = views.get(model.name, {}).get("devices", ())
            here = {**dict(model), "device": engine.device}
            default = model.name == engines[0].default_model
            views[model.name] = {**dict(model), "default": default, "devices": (*devices, here)}
    return [ModelView.model_validate(views[name]) for name in sorted(views)]
