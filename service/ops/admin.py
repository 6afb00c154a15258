"""For those who run the service and have an admin key."""

import logging
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import BaseModel, ConfigDict

from service.http.openapi import documented, headers
from service.http.problems import RequestInvalid
from service.http.urls import address
from service.services import Admin, Serving
from workers.contract.errors import AdminOff, KeyInvalid, KeyMissing, QueueUnavailable
from workers.contract.queue import reload
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.engines import running
from workers.contract.queue.reload import ModelChange

router = APIRouter(prefix="/admin", tags=["operations"])
logger = logging.getLogger(__name__)

_REFUSALS = (AdminOff, KeyMissing, KeyInvalid, QueueUnavailable)


class EngineReload(BaseModel):
    """One running engine."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    host: str
    device: str
    done: bool
    error: str | None
    """Why it changed nothing at all."""
    models: tuple[ModelChange, ...]
    """None while it is not done, nor of one that was started since: it has what there is."""


class Reload(BaseModel):
    """What has become of a request to look at the checkpoints again."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    number: int
    done: bool
    """Whether every engine that runs has looked; false while none runs."""
    engines: tuple[EngineReload, ...]


@router.post(
    "/reload",
    status_code=202,
    responses={
        202: {"description": "Engines will look", "headers": headers("Location", "Retry-After")},
        **documented(*_REFUSALS),
    },
)
def reload_models(services: Serving, admin: Admin, response: Response) -> Reload:
    """Have every engine look at its checkpoint files again.

    What is new or has changed is loaded, tried and measured, and serves the jobs that come then;
    what fails leaves the model that was there. Models whose files are gone are dropped. Pictures
    that have begun are finished as they began. New pictures wait while a model is tried.
    """
    with redis_down_is_queue_unavailable():
        number = reload.ask(services.queue.client)
    logger.warning("admin %s asks engines to reload: request %d", admin, number)
    response.headers["Location"] = address(f"/admin/reload/{number}")
    response.headers["Retry-After"] = str(int(reload.LOOK.total_seconds()))
    return _reload(services, number)


@router.get(
    "/reload/{number}",
    responses=documented(*_REFUSALS, RequestInvalid, plain=("not-found",)),
)
def read_reload(
    services: Serving,
    admin: Admin,  # noqa: ARG001 - asked for, not used
    number: Annotated[int, Path(ge=1, le=2**53)],
) -> Reload:
    """What engines have made of it; it is known for an hour."""
    return _reload(services, number)


def _reload(services: Serving, number: int) -> Reload:
    with redis_down_is_queue_unavailable():
        reports = reload.reports(services.queue.client, number)
        engines = running(services.queue.client)
    if reports is None:
        raise HTTPException(status_code=404)
    seen = tuple(
        EngineReload(
            id=engine.id,
            host=engine.host,
            device=engine.device,
            done=engine.id in reports or engine.reloaded >= number,
            error=reports[engine.id].error if engine.id in reports else None,
            models=reports[engine.id].models if engine.id in reports else (),
        )
        for engine in engines
    )
    return Reload(
        number=number, done=bool(seen) and all(engine.done for engine in seen), engines=seen
    )
