"""Operator endpoints, which need an admin key."""

import logging
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Response

from service.http.openapi import documented, headers
from service.http.problems import NotFound, RequestInvalid
from service.http.proxy import address
from service.services import Admin, Services, ServicesDep
from service.views import View
from workers.contract.errors import AdminOff, KeyInvalid, KeyMissing, QueueUnavailable
from workers.contract.queue import reload
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.reload import ModelChange

router = APIRouter(prefix="/admin", tags=["operations"])
logger = logging.getLogger(__name__)

_REFUSALS = (AdminOff, KeyMissing, KeyInvalid, QueueUnavailable)


class EngineReload(View):
    """Reload result of one running engine."""

    id: str
    host: str
    device: str
    done: bool
    error: str | None
    """Why the engine changed nothing."""
    models: tuple[ModelChange, ...]
    """Changes; empty while the engine has not finished, or if it was started after the request."""


class Reload(View):
    """Progress of a reload request."""

    number: int
    done: bool
    """True if every running engine has finished; false if none runs."""
    engines: tuple[EngineReload, ...]


@router.post(
    "/reload",
    status_code=202,
    responses={
        202: {
            "description": "The engines will reload",
            "headers": headers("Location", "Retry-After"),
        },
        **documented(*_REFUSALS),
    },
)
def reload_models(services: ServicesDep, admin: Admin, response: Response) -> Reload:
    """Reload the checkpoint files of all engines.

    New and changed checkpoints are loaded, tested, measured, and then used for new jobs. If one
    fails, the old model stays. Models whose files are gone are dropped. Pictures in progress finish
    with the old model. New pictures wait while a checkpoint is tested.
    """
    with translated_redis_errors():
        number = reload.request_reload(services.queue.client)
    logger.warning("admin %s requested reload %d of the engines", admin, number)
    response.headers["Location"] = address(f"/admin/reload/{number}")
    response.headers["Retry-After"] = str(int(reload.POLL_INTERVAL.total_seconds()))
    return _reload(services, number)


@router.get(
    "/reload/{number}",
    responses=documented(*_REFUSALS, RequestInvalid, NotFound),
)
def read_reload(
    services: ServicesDep,
    admin: Admin,  # noqa: ARG001 - asked for, not used
    number: Annotated[int, Path(ge=1, le=2**53)],
) -> Reload:
    """Results of a reload, kept for an hour."""
    return _reload(services, number)


def _reload(services: Services, number: int) -> Reload:
    with translated_redis_errors():
        reports = reload.reports(services.queue.client, number)
    if reports is None:
        raise HTTPException(status_code=404)
    seen = tuple(
        EngineReload(
            **engine.model_dump(include={"id", "host", "device"}),
            done=engine.id in reports or engine.reloaded >= number,
            error=reports[engine.id].error if engine.id in reports else None,
            models=reports[engine.id].models if engine.id in reports else (),
        )
        for engine in services.engines()
    )
    return Reload(
        number=number, done=bool(seen) and all(engine.done for engine in seen), engines=seen
    )
