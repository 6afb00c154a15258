"""`/jobs/{id}`: look, fetch, cancel, erase."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse

from service.deps import Serving
from service.problems import documented
from service.results import result_response
from service.views import JobView
from workers.contract import errors
from workers.contract.formats import ResultFormat
from workers.contract.jobs import JobState, redis_down_is_queue_unavailable

router = APIRouter(prefix="/jobs", tags=["jobs"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture",
        "content": {name.media_type: _BINARY for name in ResultFormat},
        "headers": {
            "ETag": {"description": "SHA-256 of the picture", "schema": {"type": "string"}}
        },
    },
    206: {"description": "The part that `Range` asked for"},
    304: {"description": "The client has it already"},
}


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses=documented(errors.JobNotFound, errors.QueueUnavailable),
)
def read_job(job_id: str, services: Serving, response: Response) -> JobView:
    """How a job is doing."""
    job = services.queue.get(job_id)
    if not job.ended:
        response.headers["Retry-After"] = "1"
    return JobView.of(job, position=services.queue.position(job))


@router.head("/{job_id}/result", include_in_schema=False)
@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses=_PICTURE
    | documented(
        errors.JobNotFound, errors.JobNotFinished, errors.JobCancelled, errors.JobExpired,
        errors.QueueUnavailable,
    ),
)  # fmt: skip
def read_result(
    job_id: str, services: Serving, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The finished picture; for a failed job its failure, with the status of that."""
    job = services.queue.get(job_id)
    return result_response(job, services.blobs, if_none_match=if_none_match)


@router.delete(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {"description": "It had not ended, and is cancelled"},
        204: {"description": "It had ended, and its pictures and its record are erased"},
        **documented(errors.JobNotFound, errors.QueueUnavailable),
    },
)
def delete_job(job_id: str, services: Serving) -> Response:
    """Cancel a job that has not ended; erase one that has."""
    job = services.queue.cancel(job_id)
    services.blobs.delete(job.spec.image.key)
    if job.state is JobState.CANCELLED:
        view = JobView.of(job, position=None)
        return JSONResponse(view.model_dump(mode="json"))
    if job.result is not None:
        services.blobs.delete(job.result.key)
    with redis_down_is_queue_unavailable():
        services.queue.records.erase(job_id)
    return Response(status_code=204)
