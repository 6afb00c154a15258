"""Health checks, metrics and problem documentation."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Literal

import anyio.to_thread
import redis
from fastapi import APIRouter, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from service.http.openapi import documented
from service.http.problems import KINDS, NotFound, NotReady, explanation, problem_type
from service.services import MetricsReader, Services, ServicesDep
from workers.contract.blobs.base import BlobStore
from workers.contract.errors import KeyInvalid, KeyMissing, StorageFull, StorageUnavailable
from workers.contract.queue.connection import REPLY_LOST, reason
from workers.contract.queue.engines import running

router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Health):
    """All dependencies are available."""

    checks: dict[str, str]


class ProblemType(BaseModel):
    """A kind of problem: the fields that are constant for each type."""

    type: str
    title: str
    status: int
    about: str


PROBE_TIMEOUT = timedelta(seconds=1)


@router.get("/livez")
async def live() -> Health:
    """Liveness: whether the process answers. Checks no dependencies."""
    return Health()


@router.get("/readyz", responses=documented(NotReady))
async def ready(services: ServicesDep) -> Readiness:
    """Readiness: whether a picture sent now would be processed."""
    queue, storage = await asyncio.gather(
        _with_timeout("redis", partial(_queue, services)),
        _with_timeout("storage", partial(_storage, services.blobs)),
    )
    checks = queue | storage
    if set(checks.values()) != {"ok"}:
        raise NotReady(checks)
    return Readiness(checks=checks)


@metrics_router.get(
    "/metrics",
    response_class=Response,
    dependencies=[MetricsReader],
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **documented(KeyMissing, KeyInvalid),
    },
)
def metrics(services: ServicesDep) -> Response:
    """Metrics in Prometheus's text format."""
    text = generate_latest(services.telemetry.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/problems/{slug}", responses=documented(NotFound))
async def read_problem_type(slug: str) -> ProblemType:
    """Documentation of a problem type, the target of `type` in problem documents."""
    kind = KINDS.get(slug)
    if kind is None:
        raise HTTPException(status_code=404)
    return ProblemType(
        type=problem_type(slug), title=kind.title, status=kind.status, about=explanation(kind)
    )


async def _with_timeout(name: str, check: Callable[[], dict[str, str]]) -> dict[str, str]:
    # A thread that hangs is abandoned: its own timeout ends it soon.
    with anyio.move_on_after(PROBE_TIMEOUT.total_seconds()):
        return await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
    return {name: f"no response within {PROBE_TIMEOUT.total_seconds():g} s"}


def _queue(services: Services) -> dict[str, str]:
    try:
        engines = running(services.queue.client)
        services.queue.client.set("gdsr:probe", "", ex=60)
    except REPLY_LOST as failure:
        return {"redis": f"no response ({type(failure).__name__})"}
    except redis.RedisError as failure:
        return {"redis": f"unusable ({reason(failure)})"}
    return {"redis": "ok", "engines": "ok" if engines else "none is running"}


def _storage(blobs: BlobStore) -> dict[str, str]:
    try:
        blobs.check()
    except (StorageFull, StorageUnavailable) as failure:
        return {"storage": str(failure)}
    return {"storage": "ok"}
