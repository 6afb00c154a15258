"""`/jobs/{id}/events`: job changes as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from service.http.openapi import OF_THE_OWNER, Responses, documented, headers
from service.http.problems import NotFound
from service.services import OwnJob, Services, ServicesDep
from service.watcher import JobSnapshot
from workers.contract import errors
from workers.contract.queue.jobs import JobState

router = APIRouter(prefix="/jobs", tags=["jobs"])

#: Keep-alive: interval of comments without events, so that proxies keep the connection.
KEEP_ALIVE = timedelta(seconds=15)
#: Reconnection time for clients, in milliseconds.
RECONNECT = 1000

_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["state", "progress", "done", "gone", "bye"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
_STREAM: Responses = {
    200: {
        "description": (
            "`state` with the job at the start and at each change of state; `progress` "
            "with `progress`, `queue_position` and `starts_in_seconds`; `done` with the "
            "job at its end; `gone` if it is deleted; `bye` when the service stops: "
            "reconnect"
        ),
        "content": {"text/event-stream": {"schema": _EVENT}},
        "headers": headers("X-Accel-Buffering"),
    },
    204: {"description": "The job has ended, and `Last-Event-ID` is its last event"},
}


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses=_STREAM | documented(*OF_THE_OWNER, errors.JobNotFound, errors.JobTooNew, NotFound),
)
async def watch_job(
    job: OwnJob,
    services: ServicesDep,
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event received: it is not sent again")
    ] = None,
) -> Response:
    """Follow the changes of a job until it ends."""
    if job.ended and JobSnapshot.of(job, None).tag == last_event_id:
        return Response(status_code=204)
    return EventSourceResponse(
        _events(services, job.id, last_event_id),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(services: Services, job_id: str, known: str | None) -> AsyncIterator[bytes]:
    state: JobState | None = None
    with services.subscriptions.watching(job_id) as topic:
        while True:
            snapshot, changed = topic.snapshot, topic.changed
            if snapshot is not None and snapshot.tag != known:
                yield _event(snapshot, state)
                known = snapshot.tag
            if snapshot is not None:
                state = None if snapshot.job is None else snapshot.job.state
                if snapshot.ended:
                    return
            if services.stopping.is_set():
                yield format_sse_event(event="bye", data_str="{}", retry=RECONNECT)
                return
            if topic.changed is changed:  # else the job changed while the client was reading
                try:
                    async with asyncio.timeout(KEEP_ALIVE.total_seconds()):
                        await changed.wait()
                except TimeoutError:
                    yield KEEPALIVE_COMMENT


def _event(snapshot: JobSnapshot, state: JobState | None) -> bytes:
    if snapshot.job is None:
        return format_sse_event(event="gone", data_str="{}", id=snapshot.tag)
    if snapshot.ended:
        return format_sse_event(event="done", data_str=snapshot.view, id=snapshot.tag)
    if snapshot.job.state is not state:
        return format_sse_event(
            event="state", data_str=snapshot.view, id=snapshot.tag, retry=RECONNECT
        )
    return format_sse_event(event="progress", data_str=snapshot.progress, id=snapshot.tag)
