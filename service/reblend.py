"""Another position of the slider, or one of its stops, from what a finished job kept.

The service decodes nothing: a position between is a job of its own for a job worker. Its id
follows from what was asked for, so that asking again finds it.
"""

import hashlib
from contextlib import suppress
from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import Response

from service.deps import Services
from service.downloads import download
from service.names import content_disposition
from workers.contract.blobs import BlobStore
from workers.contract.errors import BranchesNotKept, JobExpired, JobNotFound
from workers.contract.formats import ResultFormat
from workers.contract.jobs import Job, JobState, UpscaleOptions


def branch_response(job: Job, output: str, services: Services, request: Request) -> Response:
    """A kept branch of a job that has a result.

    Raises:
        BranchesNotKept: it was not asked to.
        JobExpired: they are gone.
    """
    branch = None if job.result is None else job.result.branches.get(output)
    if branch is None:
        raise BranchesNotKept(job.id)
    if not services.blobs.exists(branch.key):
        raise JobExpired(job.id)
    name = (job.spec.name or job.id).rpartition(".")[0] or job.spec.name or job.id
    return download(
        services,
        branch.key,
        request,
        size=branch.size,
        sha256=branch.sha256,
        media_type="image/png",
        disposition=content_disposition(f"{name}-{output}", extension="png"),
        headers={},
    )


def reblended(
    services: Services,
    job: Job,
    *,
    trade_off: float,
    format: ResultFormat | None,  # noqa: A002 - the word that the API uses
    quality: int | None,
) -> Job:
    """The job that makes this position of a job that has a result: new, running or done.

    Raises:
        BranchesNotKept: the job was not asked to keep what it takes.
        QueueFull: as many jobs wait as may.
        QueueUnavailable: Redis does not answer.
    """
    own = job.spec.options
    wanted = {"trade_off": round(trade_off, 4), "format": format or own.format}
    wanted["quality"] = quality or own.quality
    options = UpscaleOptions.model_validate(own.model_dump() | wanted | {"keep_branches": False})
    if options == own.model_copy(update={"keep_branches": False}):
        return job
    if job.result is None or not job.result.branches:
        raise BranchesNotKept(job.id)
    asked = f"{job.id} {options.model_dump_json()}"
    blend_id = hashlib.sha256(asked.encode()).hexdigest()[:32]
    with suppress(JobNotFound):
        blend = services.queue.get(blend_id)
        if not _is_over(blend, services.blobs):
            return blend
    return services.queue.submit_blend(blend_id, job, options)


def _is_over(blend: Job, blobs: BlobStore) -> bool:
    """Whether it ended and left nothing to fetch, so that it has to be made again."""
    if blend.result is None:
        return blend.state is JobState.CANCELLED
    return blend.result.expires_at <= datetime.now(UTC) or not blobs.exists(blend.result.key)
