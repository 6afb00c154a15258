"""`/models`: the available models."""

from fastapi import APIRouter

from service.http.openapi import documented
from service.services import Serving
from service.views import ModelView, model_views
from workers.contract.errors import QueueUnavailable
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.engines import running

router = APIRouter(tags=["models"])


@router.get("/models", responses=documented(QueueUnavailable))
def read_models(services: Serving) -> list[ModelView]:
    """The models loaded by running engines; empty if no engine runs."""
    with redis_down_is_queue_unavailable():
        return model_views(running(services.queue.client))
