"""Derived results of a finished job: other slider positions, formats, regions and sizes.

The service never decodes pictures: each derived result is a job for a job worker, except for a
branch in the stored format. The id of such a job is a digest of the request, so a repeat finds the
same job.
"""

import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fastapi import Request
from fastapi.responses import Response

from service.http.problems import RequestInvalid
from service.jobs.options import ResultFields
from service.services import Services
from service.transfer.downloads import download
from service.transfer.filenames import content_disposition
from workers.contract.blobs.base import BlobStore
from workers.contract.errors import BranchesNotKept, JobExpired, JobNotFound
from workers.contract.images.formats import ResultFormat, check_result
from workers.contract.queue.jobs import (
    STOPS,
    Job,
    JobResult,
    JobState,
    Part,
    Region,
    UpscaleOptions,
)

#: How long the failure of a derived job is reported before it is retried.
_FAILURE_KEPT = timedelta(seconds=30)


def branch_response(job: Job, output: str, services: Services, request: Request) -> Response:
    """Respond with a stored branch of a finished job.

    Raises:
        BranchesNotKept: the job was not asked to keep its branches.
        JobExpired: the branches have expired.
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


def derived_job(services: Services, job: Job, fields: ResultFields) -> Job:
    """The job that computes a derived result: new, running or done. If the original result already
    matches, the original job.

    Raises:
        RequestInvalid: fields that exclude each other, or a region outside the result.
        BranchesNotKept: the job did not keep the branches that this needs.
        AlphaNotStorable: JPEG for a transparent picture.
        ResultTooLarge: the format cannot hold so many pixels.
        RateExceeded: the owner's rate limit is exceeded.
        PixelsExceeded: the owner's pixel quota is exceeded.
        QueueFull: the queue limit is reached.
        QueueUnavailable: Redis does not answer.
    """
    own, result = job.spec.options, job.result
    if result is None:
        raise BranchesNotKept(job.id)
    options, part = _options(own, fields), _part(fields, result)
    if part == Part() and options == own.model_copy(update={"keep_branches": False}):
        return job
    other = part.mask or options.trade_off != own.trade_off
    if not result.branches and (other or result.format is not ResultFormat.PNG):
        raise BranchesNotKept(job.id)
    cut = part.region or Region(0, 0, result.width, result.height)
    check_result(
        width=part.width or cut.width,
        height=part.height or cut.height,
        format=options.format,
        has_alpha=_has_alpha(job, result) and not part.mask,
    )
    asked = f"{job.id} {options.model_dump_json()} {part.model_dump_json()}"
    blend_id = hashlib.sha256(asked.encode()).hexdigest()[:32]
    earlier = None
    with suppress(JobNotFound):
        earlier = services.queue.get(blend_id)
        if not _is_over(earlier, services.blobs):
            return earlier
    if services.rate is not None:
        services.rate.count(job.spec.owner)
    return services.queue.submit_blend(blend_id, job, options, part, instead=earlier)


def _has_alpha(job: Job, result: JobResult) -> bool:
    if result.has_alpha is not None:
        return result.has_alpha
    return job.spec.image.has_alpha and job.spec.options.background is None


def _options(own: UpscaleOptions, fields: ResultFields) -> UpscaleOptions:
    """The options of the original job with the requested changes."""
    if fields.output is not None and fields.trade_off is not None:
        raise RequestInvalid.of("query", "output", "give either an output or a trade_off")
    trade_off = STOPS.get(fields.output or "", fields.trade_off)
    chosen = fields.format or own.format
    wanted = {
        "trade_off": own.trade_off if trade_off is None else round(trade_off, 4),
        "format": chosen,
        "quality": fields.quality or own.quality,
        "lossless": own.lossless and chosen.may_be_lossless,
        "keep_branches": False,
    }
    return UpscaleOptions.model_validate(own.model_dump() | wanted)


def _part(fields: ResultFields, result: JobResult) -> Part:
    """The requested part of the result in a canonical form, so that equal requests share a job."""
    whole = Region(0, 0, result.width, result.height)
    region = Region(*map(int, fields.region.split(","))) if fields.region else whole
    x, y, across, down = region
    if not across or not down or x + across > whole.width or y + down > whole.height:
        size = f"{whole.width} x {whole.height}"
        raise RequestInvalid.of("query", "region", f"empty, or not inside the result of {size}")
    factor = min(1.0, (fields.width or across) / across, (fields.height or down) / down)
    return Part(
        mask=fields.output == "mask",
        region=None if region == whole else region,
        width=max(1, round(across * factor)) if factor < 1 else None,
        height=max(1, round(down * factor)) if factor < 1 else None,
    )


def _is_over(blend: Job, blobs: BlobStore) -> bool:
    """Whether the job ended without a stored result, so it has to run again."""
    if blend.result is None:
        ended = blend.finished_at or datetime.now(UTC)
        forgiven = blend.state is JobState.FAILED and datetime.now(UTC) - ended > _FAILURE_KEPT
        return forgiven or blend.state is JobState.CANCELLED
    return blend.result.expires_at <= datetime.now(UTC) or not blobs.exists(blend.result.key)
