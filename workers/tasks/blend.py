"""Task: a derived result (slider position, map, format, region, smaller size or dpi) from the
stored branches or the result of a job. Needs no engine and no GPU.
"""

from datetime import UTC, datetime
from functools import partial

from workers.contract.errors import BlobMissing, BranchesNotKept
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import OUTPUTS, Job, JobResult
from workers.pictures.finish import marked_as_made, printed_at
from workers.pictures.reduce import reduced, reduced_mask
from workers.tasks.branches import blend_pictures, invented_share, needed_outputs, read_branch
from workers.tasks.maps import blend_by_map, read_map
from workers.tasks.upscale import TaskContext, retry_while_unavailable, run, spent, stored, timed


def blend(job_id: str) -> bool:
    """Run one derived job and record its outcome; returns whether it succeeded."""
    return run(job_id, _blended)


def _blended(context: TaskContext, job: Job) -> JobResult:
    options, part = job.spec.options, job.spec.part
    source = context.records.get(str(job.spec.blend_of)).result
    if source is None:
        raise BranchesNotKept(str(job.spec.blend_of))
    if source.expires_at <= datetime.now(UTC):
        raise BlobMissing(source.key)
    shares = _shares(job, source)
    with timed("decode"):
        read = context.blobs.read
        faithful = None if part.mask else source.branches.get("psnr")
        # The invented share needs the faithful branch, even if that is not blended in.
        keys = dict.fromkeys([*shares, *([faithful.key] if faithful else [])])
        data = [retry_while_unavailable(partial(read, key)) for key in keys]
        found = {key: read_branch(data.pop(0), part.region) for key in keys}
        pictures = [found[key] for key in shares]
        levels = None
        if job.spec.map_key is not None:
            levels = read_map(retry_while_unavailable(partial(read, job.spec.map_key)))
    with timed("blend"):
        if levels is None:
            crispest = options.trade_off
            picture = blend_pictures(pictures, list(shares.values()))
        else:
            crispest = float(levels.max())
            picture = blend_by_map(
                pictures, levels, width=source.width, height=source.height, region=part.region
            )
        invented = None if part.region or part.mask else source.invented
        if faithful is not None:
            invented = invented_share(picture, found[faithful.key])
        del pictures, found
        if part.width and part.height:
            reduce = reduced_mask if part.mask else reduced
            picture = reduce(picture, width=part.width, height=part.height)
        if context.settings.mark and not part.mask:
            picture = marked_as_made(picture, trade_off=crispest)
        if part.dpi:
            picture = printed_at(picture, part.dpi, options.format)
    with timed("encode"):
        blob = stored(context, job, picture)
    return source.model_copy(
        update={
            **blob.model_dump(),
            "format": options.format,
            "width": picture.width,
            "height": picture.height,
            "seconds": spent(context, job),
            "branches": {},
            "previews": {},
            "invented": invented,
        }
    )


def _shares(job: Job, source: JobResult) -> dict[str, float]:
    """Keys of the PNG files to blend, with their shares; a map ignores the shares."""
    if not source.branches:
        needs_branches = job.spec.part.mask or job.spec.map_key
        if needs_branches or source.format is not ResultFormat.PNG:
            raise BranchesNotKept(str(job.spec.blend_of))
        return {source.key: 1.0}
    if job.spec.map_key is not None:
        shares = dict.fromkeys(OUTPUTS, 1.0)
    elif job.spec.part.mask:
        shares = {"mask": 1.0}
    else:
        shares = needed_outputs(job.spec.options.trade_off)
    return {source.branches[output].key: share for output, share in shares.items()}
