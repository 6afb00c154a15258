"""The answer to who asked for a picture: that, after a wait perhaps, or where it will be."""

from collections.abc import Sequence

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.jobs.results import look_again, result_response
from service.jobs.waiting import found_at_end, preferred_wait
from service.services import Services
from service.views import JobView
from workers.contract.errors import QueueUnavailable
from workers.contract.queue.estimates import Place
from workers.contract.queue.jobs import Job


async def picture_or_job(
    job: Job, services: Services, request: Request, *, prefer: Sequence[str], at_once: bool
) -> Response:
    """200 with the picture, after a wait if the client wants to; else 202 with the job.

    With `at_once` a picture that is there already needs no wish to wait.
    """
    headers: dict[str, str] = {}
    response: Response | None = None
    patience = preferred_wait(prefer, cap=services.settings.max_wait)

    def look() -> Response | None:
        nonlocal job
        job = services.queue.get(job.id)
        return result_response(job, services, request) if job.ended else None

    if patience is not None:
        headers["Preference-Applied"] = f"wait={int(patience.total_seconds())}"
    if job.ended and (at_once or patience is not None):
        response = await run_in_threadpool(result_response, job, services, request)
    elif patience is not None:
        response = await found_at_end(job.id, look, services, request, patience=patience)
    if response is not None:
        response.headers.update(headers)
        return response
    place = await run_in_threadpool(_place, services, job)
    view = JobView.of(job, place=place)
    headers |= {"Location": view.links.self, "Retry-After": look_again(place)}
    return JSONResponse(view.model_dump(mode="json"), status_code=202, headers=headers)


def _place(services: Services, job: Job) -> Place | None:
    """Of a job that was accepted: its place in the queue is no reason to fail."""
    try:
        return services.queue.place(job)
    except QueueUnavailable:
        return None
