"""What stands at `/jobs/{id}/result`: the picture, or why there is none."""

from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import FileResponse, Response

from service.digests import shown_digest
from service.names import content_disposition
from service.problems import answer, describe_failure
from service.views import Links
from workers.contract.blobs import FileBlobStore
from workers.contract.errors import JobCancelled, JobExpired, JobNotFinished
from workers.contract.estimates import Place
from workers.contract.formats import ResultFormat
from workers.contract.jobs import Job, JobResult, JobState

#: Where the usual extension is not the name of the format.
_EXTENSIONS = {ResultFormat.JPEG: "jpg"}


def result_response(job: Job, blobs: FileBlobStore, request: Request) -> Response:
    """The finished picture as a file, or the failure of the job as a problem.

    Raises:
        JobNotFinished: there is none yet.
        JobCancelled: there will be none.
        JobExpired: there was one.
    """
    if job.failure is not None:
        return answer(describe_failure(job.failure, instance=Links.of(job.id).self))
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job.id)
    if job.result is None:
        raise JobNotFinished(job.id, state=job.state)
    path = blobs.path(job.result.key)
    if job.result.expires_at <= datetime.now(UTC) or not path.is_file():
        raise JobExpired(job.id)

    result = job.result
    headers = {
        "ETag": f'"{result.sha256}"',
        "Content-Location": Links.of(job.id).result,
        "Cache-Control": "private, no-cache",
        "Repr-Digest": shown_digest(result.sha256),
        "Server-Timing": server_timing(result),
    }
    if client_has(headers["ETag"], request):
        return Response(status_code=304, headers=headers)
    if request.method != "HEAD" and "Range" not in request.headers:
        headers["Content-Digest"] = headers["Repr-Digest"]  # the content is all of it
    headers["Content-Disposition"] = content_disposition(
        job.spec.name or job.id, extension=_EXTENSIONS.get(result.format, result.format)
    )
    return FileResponse(
        path,
        stat_result=path.stat(),
        headers=headers,
        media_type=result.format.media_type,
    )


def client_has(tag: str, request: Request) -> bool:
    """Whether `If-None-Match` names this entity tag, strong or weak; only a GET can be told so."""
    if request.method not in ("GET", "HEAD"):
        return False
    named = request.headers.get("If-None-Match", "")
    return named.strip() == "*" or tag in (
        part.strip().removeprefix("W/") for part in named.split(",")
    )


def look_again(place: Place | None) -> str:
    """`Retry-After` of a job that has not ended: when it will start, at most a minute."""
    return str(min(60, max(1, (place and place.seconds) or 1)))


def server_timing(result: JobResult) -> str:
    """What the browser's own tools show of the stages, in milliseconds."""
    return ", ".join(
        f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()
    )
