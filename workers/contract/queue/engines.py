"""Registry of running engines in Redis, with expiry.

`/models`, estimates and time limits read only this; a dead engine disappears after 15 s.
"""

from datetime import timedelta
from functools import lru_cache
from typing import Any

import redis
from pydantic import Field

from workers.contract.errors import FormatNotWritten, ModelUnknown, NoWorker
from workers.contract.images.formats import (
    EXTRA_FORMATS,
    ImageFormat,
    ResultFormat,
    library_missing,
)
from workers.contract.queue.connection import as_text
from workers.contract.record import Record

EXPIRY = timedelta(seconds=15)
HEARTBEAT = timedelta(seconds=5)
_INDEX = "gdsr:engines"


class ModelInfo(Record):
    """One checkpoint on one engine."""

    name: str
    sha256: str
    preset: str
    scale: int
    card: dict[str, Any]
    """Model card: training run, data, scores, licence."""
    precision: str
    compiled: bool = False
    """True if the network is compiled for the GPU; the engine's log says why not."""
    backend: str = "torch"
    """Library that computes: `torch` or `openvino`."""
    seconds_by_backend: dict[str, float] = Field(default={})
    """Seconds of one tile in each library of the trial at start; empty if there was no trial."""
    pixels_per_second: dict[str, float]
    """Input pixels per second, measured at warm-up, for each of psnr, fused and gan."""


class EngineInfo(Record):
    """One running engine."""

    id: str
    host: str
    device: str
    tile: int
    default_model: str
    models: tuple[ModelInfo, ...]
    tiles: int = 0
    """Tiles computed since it started."""
    extra_formats: tuple[str, ...] = ()
    """Optional formats (`EXTRA_FORMATS`) that the job workers of its host support."""
    reloaded: int = 0
    """Number of the last reload request (see `reload`) that it has processed."""
    memory_retries: int = 0
    """Number of retries after running out of memory."""


def register(client: redis.Redis, engine: EngineInfo) -> None:
    """Register an engine, or renew its registration, for `EXPIRY`."""
    with client.pipeline() as pipe:
        pipe.set(f"gdsr:engine:{engine.id}", engine.model_dump_json(), ex=EXPIRY)
        pipe.sadd(_INDEX, engine.id)
        pipe.execute()


def unregister(client: redis.Redis, engine_id: str) -> None:
    """Remove an engine from the registry."""
    with client.pipeline() as pipe:
        pipe.delete(f"gdsr:engine:{engine_id}")
        pipe.srem(_INDEX, engine_id)
        pipe.execute()


def running(client: redis.Redis) -> list[EngineInfo]:
    """The running engines, in a stable order."""
    ids = sorted(as_text(member) for member in client.smembers(_INDEX))
    if not ids:
        return []
    records = client.mget([f"gdsr:engine:{engine_id}" for engine_id in ids])
    gone = [engine_id for engine_id, record in zip(ids, records, strict=True) if record is None]
    if gone:
        client.srem(_INDEX, *gone)
    return [_info(record) for record in records if record is not None]


@lru_cache(maxsize=64)  # read by each upload, written by each engine every few seconds
def _info(record: bytes) -> EngineInfo:
    return EngineInfo.model_validate_json(record)


def choose_model(engines: list[EngineInfo], name: str | None) -> ModelInfo:
    """The model for a request, as on the slowest engine that has it.

    Raises:
        NoWorker: no engine is running.
        ModelUnknown: there is no such model.
    """
    if not engines:
        raise NoWorker
    wanted = name or engines[0].default_model
    found = [model for engine in engines for model in engine.models if model.name == wanted]
    if not found:
        known = sorted({model.name for engine in engines for model in engine.models})
        raise ModelUnknown(name=wanted, known=", ".join(known))
    return min(found, key=lambda model: min(model.pixels_per_second.values()))


def extra_formats(engines: list[EngineInfo]) -> tuple[ImageFormat, ...]:
    """The optional formats supported by every worker host, as any of them may get the job."""
    if not engines:
        return ()
    common = set.intersection(*(set(engine.extra_formats) for engine in engines))
    return tuple(name for name in EXTRA_FORMATS if name.value in common)


def check_extra(name: ImageFormat | ResultFormat, engines: list[EngineInfo]) -> None:
    """Reject an optional format that some worker host does not support.

    Raises:
        ImageUnsupported: a picture in it cannot be read.
        FormatNotWritten: a result in it cannot be written.
    """
    extras = {extra.value for extra in EXTRA_FORMATS}
    if name.value not in extras or name.value in set(extra_formats(engines)):
        return
    if isinstance(name, ResultFormat):
        raise FormatNotWritten(format_name=name.value)
    raise library_missing(name)
