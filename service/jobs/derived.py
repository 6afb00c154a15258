"""Derived results of a finished job: other slider positions, maps, formats, regions and sizes.

The service never decodes pictures: each derived result is a job for a job worker, except for a
branch in the stored format. The id of such a job is a digest of the request, so a repeat finds the
same job.
"""

import hashlib
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fastapi import Request
from fastapi.responses import Response

from service.http.problems import RequestInvalid
from service.jobs.options import DerivedFields, ReadFields, ResultFields
from service.services import Services
from service.transfer.downloads import download, stem
from service.transfer.incoming import Upload
from service.transfer.uploads import deleted_if_refused
from workers.contract import errors
from workers.contract.blobs.base import BlobStore
from workers.contract.images.formats import ResultFormat, check_result, extension
from workers.contract.images.maps import check_map
from workers.contract.images.names import safe_name
from workers.contract.queue.jobs import (
    STOPS,
    Job,
    JobResult,
    JobSpec,
    JobState,
    Part,
    Region,
    UpscaleOptions,
)
from workers.contract.queue.queue import blend_spec

#: How long the failure of a derived job is reported before it is retried.
_FAILURE_KEPT = timedelta(seconds=30)


class MapUpload(Upload):
    """The map of a derived result; there need not be one."""

    expected = "map"
    takes_json = False

    def end(self) -> None:
        if self.named and not self.size:
            raise errors.MapInvalid("is empty")
        if self.size:
            super().end()

    def too_large(self) -> errors.GDSRError:
        return errors.MapTooLarge(limit=self.limit, of="bytes")


def branch_response(job: Job, fields: ReadFields, services: Services, request: Request) -> Response:
    """Respond with a stored branch of a finished job, or its preview.

    Raises BranchesNotKept, or JobExpired if they are gone.
    """
    output, result = str(fields.output), job.result
    kept = result and (result.previews if fields.preview else result.branches)
    branch = kept and kept.get(output)
    if not branch:
        raise errors.BranchesNotKept(job.id)
    kind = ResultFormat.WEBP if fields.preview else ResultFormat.PNG
    if not services.blobs.exists(branch.key):
        raise errors.JobExpired(job.id)
    name = f"{stem(job.spec.name or job.id)}-{output}.{extension(kind)}"
    return download(services, branch, request, media_type=kind.media_type, name=name, headers={})


def derivation(job: Job, fields: ResultFields, upload: Upload | None = None) -> JobSpec | None:
    """The job of a derived result, whether it exists or not; None for the result itself. `upload`
    is the map, if any. The id is a digest of the request, so that equal requests are one job.

    Raises:
        RequestInvalid: fields that exclude each other, or a region outside the result.
        MapInvalid, MapTooLarge: the map is no 8-bit grey PNG in the proportions of the result.
        BranchesNotKept: the job did not keep the branches that this needs.
        AlphaNotStorable, ResultTooLarge: the format cannot hold the result.
    """
    own, result = job.spec.options, job.result
    if result is None:
        raise errors.BranchesNotKept(job.id)
    options, part = _options(own, fields), _part(fields, result)
    name = safe_name(fields.name) if isinstance(fields, DerivedFields) else None
    if upload is not None:
        if fields.trade_off is not None or fields.output is not None:
            other = "output" if fields.trade_off is None else "trade_off"
            raise RequestInvalid.of("query", other, f"give either a map or {other}")
        check_map(upload.file, width=result.width, height=result.height)
        part = part.model_copy(update={"map": upload.sha256})
    same = part == Part() and options == own.model_copy(update={"keep_branches": False})
    if same and name in (None, job.spec.name):
        return None
    needs_branches = part.mask or part.map or options.trade_off != own.trade_off
    if not result.branches and (needs_branches or result.format is not ResultFormat.PNG):
        raise errors.BranchesNotKept(job.id)
    has_alpha = result.has_alpha
    if has_alpha is None:
        has_alpha = job.spec.image.has_alpha and own.background is None
    cut = part.region or Region(0, 0, result.width, result.height)
    check_result(
        width=part.width or cut.width,
        height=part.height or cut.height,
        format=options.format,
        has_alpha=has_alpha and not part.mask,
    )
    asked = f"{job.id} {options.model_dump_json()} {part.model_dump_json()} {name or ''}"
    job_id = hashlib.sha256(asked.encode()).hexdigest()[:32]
    # Another service may store the same map now and be rejected, so each stores its own blob.
    map_key = f"inputs/{job_id}.{secrets.token_hex(8)}" if upload else None
    return blend_spec(job_id, job, options, part, name=name, map_key=map_key)


def derived_job(
    services: Services, job: Job, fields: ResultFields, upload: Upload | None = None
) -> Job:
    """Return the job that computes a derived result: new, running or done; or the original job, if
    its result already matches. `upload` is the map, if any.

    Raises:
        GDSRError: as in `derivation`.
        RateExceeded, PixelsExceeded, QueueFull: there is no room for the job.
    """
    spec = derivation(job, fields, upload)
    if spec is None:
        return job
    earlier = None
    with suppress(errors.JobNotFound):
        earlier = services.queue.get(spec.id)
        if not is_over(earlier, services.blobs):
            return earlier
    counted = services.rate.count(job.spec.owner)
    stored: tuple[str, ...] = ()
    if upload is not None and spec.map_key is not None:
        services.blobs.keep(upload.file, spec.map_key)
        stored = (spec.map_key,)
    with (
        services.rate.given_back_without_room(counted),
        deleted_if_refused(services.blobs, *stored),
    ):
        made = services.queue.submit_blend(spec, instead=earlier)
    if made.spec.created_at != spec.created_at:  # a concurrent request was first
        services.rate.give_back(counted)
        services.blobs.delete(*stored)
    return made


def _options(own: UpscaleOptions, fields: ResultFields) -> UpscaleOptions:
    """The options of the original job with the requested changes."""
    if fields.output is not None and fields.trade_off is not None:
        raise RequestInvalid.of("query", "output", "give either an output or a trade_off")
    trade_off = STOPS.get(fields.output or "", fields.trade_off)
    chosen = fields.format or own.format
    wanted = {
        "trade_off": own.trade_off if trade_off is None else trade_off,
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
        dpi=fields.dpi,
    )


def is_over(blend: Job, blobs: BlobStore) -> bool:
    """True if the job ended without a stored result, so it has to run again."""
    if blend.result is None:
        ended = blend.finished_at or datetime.now(UTC)
        forgiven = blend.state is JobState.FAILED and datetime.now(UTC) - ended > _FAILURE_KEPT
        return forgiven or blend.state is JobState.CANCELLED
    return blend.result.expires_at <= datetime.now(UTC) or not blobs.exists(blend.result.key)
