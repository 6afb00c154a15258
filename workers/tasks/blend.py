"""Task: a derived result (slider position, format, region or smaller size) from the stored branches
or the result of a job. Needs no engine and no GPU.
"""

from datetime import UTC, datetime
from functools import partial

from workers.contract.errors import BlobMissing, BranchesNotKept
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import Job, JobResult
from workers.pictures.finish import marked_as_made
from workers.pictures.reduce import reduced, reduced_mask
from workers.tasks.branches import blend_pictures, needed_outputs, read_branch
from workers.tasks.upscale import TaskContext, patiently, run, stored, timed, waited


def blend(job_id: str) -> None:
    """Run one derived job and record its outcome."""
    run(job_id, _blended)


def _blended(context: TaskContext, job: Job) -> JobResult:
    options, part, seconds = job.spec.options, job.spec.part, {"queue": waited(job)}
    source = context.records.get(str(job.spec.blend_of)).result
    if source is None:
        raise BranchesNotKept(str(job.spec.blend_of))
    if source.expires_at <= datetime.now(UTC):
        raise BlobMissing(source.key)
    shares = _shares(job, source)
    with timed(seconds, "decode"):
        read = context.blobs.read
        data = [patiently(partial(read, key)) for key in shares]
        pictures = [read_branch(data.pop(0), part.region) for _ in shares]
    with timed(seconds, "blend"):
        picture = blend_pictures(pictures, list(shares.values()))
        del pictures
        if part.width and part.height:
            reduce = reduced_mask if part.mask else reduced
            picture = reduce(picture, width=part.width, height=part.height)
        if context.settings.mark and not part.mask:
            picture = marked_as_made(picture, trade_off=options.trade_off)
    with timed(seconds, "encode"):
        key = f"results/{job.id}.{context.run}.{options.format}"
        blob = stored(context, key, picture, options)
    return source.model_copy(
        update={
            "key": blob.key,
            "size": blob.size,
            "sha256": blob.sha256,
            "format": options.format,
            "width": picture.width,
            "height": picture.height,
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
            "branches": {},
        }
    )


def _shares(job: Job, source: JobResult) -> dict[str, float]:
    """The blobs that it is blended from, PNG files of our own, with their shares."""
    if not source.branches:
        if job.spec.part.mask or source.format is not ResultFormat.PNG:
            raise BranchesNotKept(str(job.spec.blend_of))
        return {source.key: 1.0}
    shares = {"mask": 1.0} if job.spec.part.mask else needed_outputs(job.spec.options.trade_off)
    return {source.branches[output].key: share for output, share in shares.items()}
