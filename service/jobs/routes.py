"""`/jobs/{id}`: state, result, cancel, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.access.guard import is_local
from service.http import openapi
from service.http.problems import JOB_FAILURES, NotFound, RangeNotSatisfiable, RequestInvalid
from service.http.proxy import address
from service.jobs import results
from service.jobs.derived import MapUpload, branch_response, derived_job
from service.jobs.erasing import erase
from service.jobs.options import DerivedFields, ReadFields, described_request, read_fields
from service.services import Owner, OwnJob, ServicesDep, own_job
from service.transfer.downloads import ByteRange, IfNoneMatch, Prefer, etag_matches
from service.transfer.incoming import Upload
from service.transfer.uploads import receive
from service.views import JobsView, JobView
from workers.contract import errors
from workers.contract.images.maps import MAX_MAP_BYTES
from workers.contract.queue.jobs import Job, JobState

router = APIRouter(prefix="/jobs", tags=["jobs"])

_NOT_THERE = (*openapi.OF_THE_OWNER, errors.JobNotFound, errors.JobTooNew, NotFound)
_RECORD: openapi.Responses = {
    200: {
        "description": "The current state of the job",
        "headers": openapi.headers("ETag", "Retry-After", "Server-Timing"),
        "links": openapi.JOB_LINKS,
    },
    304: {
        "description": "Not modified since the client's `If-None-Match`",
        "headers": openapi.headers("ETag", "Retry-After", "Server-Timing"),
    },
    **openapi.documented(*_NOT_THERE),
}
_PENDING = openapi.pending(
    "The job that computes the derived result", JobView, openapi.JOB_LINKS, "Preference-Applied"
)
_RESULT_PROBLEMS = (
    *_NOT_THERE, errors.JobNotFinished, errors.JobCancelled, errors.JobExpired,
    errors.BranchesNotKept, errors.QueueFull, RequestInvalid, errors.RateExceeded,
    errors.PixelsExceeded, RangeNotSatisfiable, errors.StorageUnavailable,
)  # fmt: skip
_RESULT = openapi.PICTURE | _PENDING | openapi.documented(*_RESULT_PROBLEMS, failures=JOB_FAILURES)
_DERIVED = {
    200: openapi.PICTURE[200],
    **_PENDING,
    **openapi.documented(*_RESULT_PROBLEMS, errors.StorageFull, failures=JOB_FAILURES),
}
_DERIVED_REQUEST = described_request(
    DerivedFields,
    "The map, an 8-bit grey PNG; without one, one trade-off for all pixels",
    files={"map": openapi.BINARY["schema"]},
    more={"image/png": openapi.BINARY},
)


@router.get(
    "",
    responses=openapi.documented(*openapi.OF_THE_OWNER, errors.ListingNeedsKeys, RequestInvalid),
)
def list_jobs(
    services: ServicesDep,
    owner: Owner,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str, Query(max_length=100, description="Cursor from `next` of the previous page")
    ] = "",
) -> JobsView:
    """Jobs of this API key, newest first. On loopback without keys: all jobs, for local programs
    only.
    """
    if not services.keys and not (services.private and is_local(request.scope)):
        raise errors.ListingNeedsKeys
    try:
        page = services.queue.page(owner, limit=limit, cursor=cursor)
    except ValueError:
        raise RequestInvalid.of("query", "cursor", "not a cursor of this list") from None
    positions = services.queue.queue_positions()
    return JobsView(
        jobs=tuple(JobView.of(job, position=positions.get(job.id)) for job in page.jobs),
        next=page.cursor and address(f"/jobs?limit={limit}&cursor={page.cursor}"),
    )


@router.head(
    "/{job_id}",
    operation_id="head_job",
    response_class=Response,
    responses=openapi.bodiless(_RECORD),
)
@router.get("/{job_id}", response_model=JobView, responses=_RECORD)
def read_job(
    job: OwnJob,
    services: ServicesDep,
    request: Request,
    if_none_match: IfNoneMatch = None,  # noqa: ARG001 - declared here, read by etag_matches
) -> Response:
    """State of a job."""
    position = services.queue.queue_position(job)
    view = JobView.of(job, position=position)
    sent = {"ETag": f'"{view.tag}"', "Cache-Control": "private, no-cache"}
    if not job.ended:
        sent["Retry-After"] = results.retry_after(position)
    if job.result is not None:
        sent["Server-Timing"] = results.server_timing(job.result)
    if etag_matches(sent["ETag"], request):
        return Response(status_code=304, headers=sent)
    return Response(view.model_dump_json(), headers=sent, media_type="application/json")


@router.head(
    "/{job_id}/result",
    operation_id="head_result",
    response_class=Response,
    responses=openapi.bodiless(_RESULT),
)
@router.get("/{job_id}/result", response_class=Response, responses=_RESULT)
async def read_result(
    job: OwnJob,
    services: ServicesDep,
    request: Request,
    fields: Annotated[ReadFields, Query()],
    prefer: Prefer,
    if_none_match: IfNoneMatch = None,  # noqa: ARG001 - declared here, read by etag_matches
    range: ByteRange = None,  # noqa: A002, ARG001 - the same
) -> Response:
    """The finished picture; for a failed job, its failure with the matching status.

    With parameters, a derived result: a branch, the mask or another slider position of a job that
    kept its branches; another format, a region or a smaller size of such a job or of a PNG result.
    The parameters can be combined. A derived result is a job that does not run the network, with
    the same responses as `POST /upscale`; equal requests return the same job.
    """
    wait = results.preferred_wait(prefer, cap=services.settings.max_wait)
    if wait:
        job = await results.ended_job(job, services, request, wait) or job
    if job.result is None or fields == ReadFields():
        response = await run_in_threadpool(results.result_response, job, services, request)
        response.headers.update(wait.headers if wait else {})
        return response
    await run_in_threadpool(results.check_kept, job, services.blobs)
    if fields.output and fields == ReadFields(output=fields.output, preview=fields.preview):
        return await run_in_threadpool(branch_response, job, fields, services, request)
    if fields.preview:
        raise RequestInvalid.of("query", "preview", "needs an output and no other field")
    made = await run_in_threadpool(derived_job, services, job, fields)
    return await results.picture_or_job(made, services, request, wait=wait, at_once=True)


@router.post(
    "/{job_id}/result",
    response_class=Response,
    responses=_DERIVED,
    openapi_extra=_DERIVED_REQUEST,
)
async def derive_result(
    job_id: str,
    services: ServicesDep,
    owner: Owner,
    request: Request,
    prefer: Prefer,
) -> Response:
    """A derived result by a map, or under another file name; otherwise as with `GET`.

    The map is the body or the multipart field `map`: an 8-bit grey PNG in the proportions of the
    result, and no larger. Its interpolated levels are the trade-off of each pixel, from 0 (0) to 1
    (255). The job must have kept its branches. Equal requests return the same job. The picture is
    at the address of this job, with ranges and an entity tag, and is deleted with the first job.
    """
    query = ("query", request.query_params.multi_items())
    with services.counting_rejections():
        await services.gate.check(owner, None)
        read_fields(DerivedFields, query)  # before reading the map
        job = await run_in_threadpool(own_job, services, job_id, owner)
        if job.result is None:
            return await run_in_threadpool(results.result_response, job, services, request)
        await run_in_threadpool(results.check_kept, job, services.blobs)

        def accept(upload: Upload) -> Job:
            fields = read_fields(DerivedFields, query, (upload.place, upload.fields))
            return derived_job(services, job, fields, upload if upload.size else None)

        made = await receive(request, services, MapUpload(MAX_MAP_BYTES), accept)
    wait = results.preferred_wait(prefer, cap=services.settings.max_wait)
    return await results.picture_or_job(made, services, request, wait=wait, at_once=True)


@router.delete(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {"description": "The job was pending and is cancelled"},
        204: {"description": "The job had ended; its pictures and its record are deleted"},
        **openapi.documented(*_NOT_THERE, errors.StorageUnavailable),
    },
)
def delete_job(job: OwnJob, services: ServicesDep) -> Response:
    """Cancel a pending job; delete one that has ended."""
    had_ended = job.ended
    job = services.queue.cancel(job.id)
    services.blobs.delete(*job.spec.inputs)
    if job.state is JobState.CANCELLED and not had_ended:
        view = JobView.of(job, position=None)
        return JSONResponse(view.model_dump(mode="json"))
    erase(services, job)
    return Response(status_code=204)
