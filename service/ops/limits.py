"""`/limits` and `/models`: accepted inputs, result formats, limits and available models."""

from contextlib import suppress

from fastapi import APIRouter

from service.http.openapi import documented
from service.services import Serving
from service.transfer.multipart import MAX_FIELD_BYTES, MAX_FIELDS
from service.views import LimitsView, ModelView, OutputFormatView, model_views
from workers.contract.errors import QueueUnavailable
from workers.contract.images.formats import EXTRA_FORMATS, ImageFormat, ResultFormat
from workers.contract.images.maps import MAX_MAP_BYTES, MAX_MAP_PIXELS
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.engines import extra_formats, running
from workers.contract.queue.jobs import STOPS

router = APIRouter(tags=["models"])


@router.get("/limits")
def read_limits(services: Serving) -> LimitsView:
    """All limits, and the formats that every running worker supports.

    The names are those of `limits` in problem documents.
    """
    settings = services.settings
    extras: tuple[ImageFormat, ...] = ()
    with suppress(QueueUnavailable), redis_down_is_queue_unavailable():
        extras = extra_formats(running(services.queue.client))
    return LimitsView(
        **settings.model_dump(include=set(LimitsView.model_fields)),
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
            OutputFormatView(
                name=name,
                media_type=name.media_type,
                max_side=name.max_side,
                max_result_pixels=name.max_pixels,
                max_bits=name.max_bits,
                lossless=name.may_be_lossless,
            )
            for name in ResultFormat
            if name is not ResultFormat.JXL or ImageFormat.JXL in extras
        ),
        trade_off_stops=STOPS,
    )


@router.get("/models", responses=documented(QueueUnavailable))
def read_models(services: Serving) -> list[ModelView]:
    """The models loaded by running engines; empty if no engine runs."""
    with redis_down_is_queue_unavailable():
        return model_views(running(services.queue.client))
