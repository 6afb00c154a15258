"""What stands at `/jobs/{id}/result`: the picture, or why there is none."""

from datetime import UTC, datetime

from fastapi.responses import FileResponse, Response

from service.problems import answer, describe_failure
from service.views import Links
from workers.contract.blobs import FileBlobStore
from workers.contract.errors import JobCancelled, JobExpired, JobNotFinished
from workers.contract.jobs import Job, JobState


def result_response(
    job: Job, blobs: FileBlobStore, *, if_none_match: str | None = None
) -> Response:
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

    headers = {
        "ETag": f'"{job.result.sha256}"',
        "Content-Location": Links.of(job.id).result,
        "Cache-Control": "private, no-cache",
    }
    if if_none_match is not None and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return FileResponse(
        path,
        stat_result=path.stat(),
        headers=headers,
        media_type=job.result.format.media_type,
        filename=f"{job.id}.{job.result.format}",
        content_disposition_type="inline",
    )
