"""What stands at `/jobs/{id}/result`: the picture, or why there is none."""

from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import Response

from service.http.problems import answer, describe_failure
from service.services import Services
from service.transfer.downloads import download
from service.transfer.filenames import content_disposition
from service.views import Links
from workers.contract.blobs.base import BlobStore
from workers.contract.errors import BlobMissing, JobCancelled, JobExpired, JobNotFinished
from workers.contract.images.formats import extension
from workers.contract.queue.estimates import Place
from workers.contract.queue.jobs import Job, JobResult, JobState


def result_response(job: Job, services: Services, request: Request) -> Response:
    """The finished picture as a file, or the failure of the job as a problem.

    Raises:
        JobNotFinished: there is none yet.
        JobCancelled: there will be none.
        JobExpired: there was one.
        StorageUnavailable: the store does not answer.
    """
    if job.failure is not None:
        return answer(describe_failure(job.failure, instance=Links.of(job.id).self))
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job.id)
    if job.result is None:
        raise JobNotFinished(job.id, state=job.state)
    result = job.result
    check_kept(job, services.blobs)
    try:
        return download(
            services,
            result.key,
            request,
            size=result.size,
            sha256=result.sha256,
            media_type=result.format.media_type,
            disposition=content_disposition(
                job.spec.name or job.id, extension=extension(result.format)
            ),
            headers={
                "Content-Location": Links.of(job.id).result,
                "Server-Timing": server_timing(result),
            },
        )
    except BlobMissing:
        raise JobExpired(job.id) from None


def check_kept(job: Job, blobs: BlobStore) -> None:
    """Return if the picture of a job that has succeeded is still there.

    Raises:
        JobExpired: it is not.
    """
    result = job.result
    if result is None or result.expires_at <= datetime.now(UTC) or not blobs.exists(result.key):
        raise JobExpired(job.id)


def look_again(place: Place | None) -> str:
    """`Retry-After` of a job that has not ended: when it will start, at most a minute."""
    return str(min(60, max(1, (place and place.seconds) or 1)))


def server_timing(result: JobResult) -> str:
    """What the browser's own tools show of the stages, in milliseconds."""
    return ", ".join(
        f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()
    )
