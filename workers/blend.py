"""The task that makes another position of the slider from kept branches: no engine, no GPU."""

from datetime import UTC, datetime

from workers.branches import blend_pictures, needed_outputs, read_branch
from workers.contract.errors import BlobMissing, BranchesNotKept
from workers.contract.jobs import Job, JobResult
from workers.pictures.encode import encode
from workers.tasks import TaskContext, run, timed, waited


def blend(job_id: str) -> None:
    """Run one re-blend to its end and record how it ended."""
    run(job_id, _blended)


def _blended(context: TaskContext, job: Job) -> JobResult:
    options, seconds = job.spec.options, {"queue": waited(job)}
    source = context.records.get(str(job.spec.blend_of)).result
    if source is None or not source.branches:
        raise BranchesNotKept(str(job.spec.blend_of))
    if source.expires_at <= datetime.now(UTC):
        raise BlobMissing(source.key)
    shares = needed_outputs(options.trade_off)
    with timed(seconds, "decode"):
        pictures = [
            read_branch(context.blobs.read(source.branches[output].key)) for output in shares
        ]
    with timed(seconds, "blend"):
        picture = blend_pictures(pictures, list(shares.values()))
    with timed(seconds, "encode"):
        encoded = encode(picture, format=options.format, quality=options.quality)
        key = f"results/{job.id}.{context.run}.{options.format}"
        blob = context.blobs.write(key, [encoded])
    return source.model_copy(
        update={
            "key": blob.key,
            "size": blob.size,
            "sha256": blob.sha256,
            "format": options.format,
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
            "branches": {},
        }
    )
