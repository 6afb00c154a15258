"""Task: run one job: decode, tile, compute, stitch, encode, store."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import redis
from rq.timeouts import JobTimeoutException

from workers.contract.blobs.base import BlobStore, StoredBlob
from workers.contract.errors import (
    CheckpointReplaced,
    GDSRError,
    JobFailed,
    JobOutOfMemory,
    JobTimedOut,
    StorageFull,
    StorageUnavailable,
)
from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import SCALE, PictureChoices
from workers.contract.observability import logs
from workers.contract.queue.jobs import KEPT, STOPS, Job, JobResult
from workers.contract.queue.records import JobRecords
from workers.contract.settings import WorkerSettings
from workers.engine.client import EngineClient, MadeBy
from workers.host.reports import JobReport, Stage, send
from workers.pictures.decode import decode
from workers.pictures.encode import encode, encode_preview
from workers.pictures.finish import marked_as_made, postprocess, postprocess_mask, preprocess
from workers.pictures.formats.png import png_pieces
from workers.pictures.picture import Picture
from workers.pictures.reduce import reduced, reduced_mask
from workers.tasks.branches import blend_pictures, invented_share, needed_outputs
from workers.tasks.pipeline import upscale_outputs
from workers.tiles.trade_off import MASK, Weights, output_weights

#: Longest side of the preview of a branch.
_PREVIEW_SIDE = 2048
#: Minimum interval of progress updates.
_PROGRESS_SECONDS = 0.2
#: Maximum seconds between two attempts at the picture store.
_LONGEST_PAUSE = 5.0

Found = TypeVar("Found")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """The environment of a task, set in the child before the task starts."""

    run: str
    """Id of this run; once another run has the lease, this one may not write."""
    worker: str
    settings: WorkerSettings
    records: JobRecords
    blobs: BlobStore
    engine_sockets: Sequence[Path]
    reports: Path | None = None
    """Socket of the supervisor that receives job reports."""
    stages: list[Stage] = field(default_factory=list)
    """Time spent so far, by stage."""


CONTEXT: ContextVar[TaskContext] = ContextVar("task_context")


class _LeaseLost(Exception):
    """The lease was lost by cancellation or to another run: stop and clean up."""


def upscale(job_id: str) -> bool:
    """Run one upscale job and record its outcome; returns whether it succeeded."""
    return run(job_id, _upscaled)


def run(job_id: str, make_result: Callable[[TaskContext, Job], JobResult]) -> bool:
    """Run one job and record its outcome; returns whether it succeeded. No bad picture raises."""
    context = CONTEXT.get()
    logs.job_id.set(job_id)
    if not context.records.start(job_id, run=context.run, worker=context.worker):
        return False
    job = context.records.get(job_id)
    logs.request_id.set(job.spec.request_id)
    logs.traceparent.set(job.spec.traceparent)
    try:
        _finish(context, job, make_result(context, job))
        return True
    except _LeaseLost:
        log.info("the lease of the job is lost")
    except redis.RedisError:
        raise  # the write may have happened: only the run is lost
    except Exception as problem:  # noqa: BLE001 - `as_error` logs unexpected errors
        _fail(context, job, as_error(problem, "job", context, job.spec.time_limit))
    return False


def as_error(
    problem: Exception, what: str, context: TaskContext, time_limit: timedelta
) -> GDSRError:
    """Map the exception of a failed job or batch to an error for the client."""
    match problem:
        case GDSRError():
            return problem
        case JobTimeoutException():
            return JobTimedOut(time_limit=time_limit)
        case MemoryError():
            return JobOutOfMemory(limit=context.settings.job_memory)
    log.error("the %s failed", what, exc_info=problem)
    return JobFailed(f"the {what} failed because of an internal error; see the log")


def _upscaled(context: TaskContext, job: Job) -> JobResult:
    spec, settings = job.spec, context.settings
    with timed("decode"):
        data = retry_while_unavailable(lambda: context.blobs.read(spec.image.key))
        picture = decode(
            data,
            max_pixels=settings.max_pixels,
            frame=spec.options.frame,
            icc=spec.options.icc,
            truncated=spec.options.truncated,
        )
        picture = preprocess(picture, spec.options, spec.options.format)
        del data
    weights = [output_weights(spec.options.trade_off)]
    if spec.options.keep_branches:
        weights = [*(output_weights(stop) for stop in STOPS.values()), MASK]
    _check_memory(picture, spec.options, outputs=len(weights))
    with timed("infer"):
        try:
            pictures, made_by = _inferred(context, job, picture, weights)
        except CheckpointReplaced:  # tiles of both would be mixed
            pictures, made_by = _inferred(context, job, picture, weights)
    with timed("encode"):
        if spec.options.keep_branches:
            picture, kept = _kept(context, job, pictures)
        else:
            picture = postprocess(pictures.pop(), spec.options)
            kept = {"invented": 0.0 if spec.options.trade_off == 0 else None}
        if settings.mark:
            picture = marked_as_made(picture, trade_off=spec.options.trade_off)
        blob = stored(context, job, picture)
    return JobResult(
        **blob.model_dump(),
        format=spec.options.format,
        width=picture.width,
        height=picture.height,
        model=spec.options.model,
        checkpoint=made_by.checkpoint,
        device=made_by.device,
        precision=made_by.precision if picture.bits == 8 else "float32",
        consistency=made_by.consistency
        if spec.options.consistency is None
        else spec.options.consistency,
        seconds=spent(context, job),
        expires_at=datetime.now(UTC) + settings.result_ttl,
        has_alpha=picture.alpha is not None,
        **kept,
        warnings=picture.warnings,
    )


def _check_memory(picture: Picture, choices: PictureChoices, *, outputs: int) -> None:
    """Check before the network runs that there is room for its outputs, and for a copy of one of
    them if it will be reduced or gets a background.

    Raises:
        MemoryError: there is none.
    """
    width, height = choices.result_size(width=picture.width, height=picture.height)
    whole = SCALE**2 * picture.width * picture.height
    is_flattened = picture.alpha is not None and choices.background is not None
    copied = width * height if width * height < whole or is_flattened else 0
    colours = max(outputs - 1, 1) * whole + copied  # the last of several is a mask of 8 bits
    samples = (1 if picture.grey else 3) * colours + (picture.alpha is not None) * whole
    np.empty(samples * picture.bits // 8, np.uint8)  # takes address space, which is limited


def _inferred(
    context: TaskContext, job: Job, picture: Picture, weights: list[Weights]
) -> tuple[list[Picture], MadeBy]:
    """One picture for each of the weights, and the engine that computed them."""
    options, patience = job.spec.options, context.settings.engine_patience
    with EngineClient(context.engine_sockets, model=options.model, patience=patience) as engine:
        pictures = upscale_outputs(
            picture,
            engine,
            model=options.model,
            weights=weights,
            progress=_progress(context, job.id),
            alpha=options.alpha,
            consistent=options.consistency,
        )
        return pictures, engine.made_by(options.model)


def _kept(
    context: TaskContext, job: Job, pictures: list[Picture]
) -> tuple[Picture, dict[str, Any]]:
    """Store each branch of `KEPT`, removed from `pictures`; returns the result, blended from them,
    and the fields of `JobResult` about them.

    It is blended exactly as in a derived job, so that both have the same pixels.
    """
    options = job.spec.options
    shares = needed_outputs(options.trade_off)
    branches: dict[str, StoredBlob] = {}
    previews: dict[str, StoredBlob] = {}
    needed: dict[str, Picture] = {}
    for output in KEPT:
        picture = pictures.pop(0)  # one at a time: together they fill the memory of a job
        if output == "mask":
            picture = postprocess_mask(picture, options)
        else:
            picture = postprocess(picture, options)
            if context.settings.mark:
                picture = marked_as_made(picture, trade_off=STOPS[output])
        key = f"results/{job.id}.{context.run}.{output}"
        branches[output] = _stored(context, f"{key}.png", partial(png_pieces, picture))
        previews[output] = _stored(context, f"{key}.webp", partial(_preview, output, picture))
        if output in shares or output == "psnr":
            needed[output] = picture
    blended = blend_pictures([needed[output] for output in shares], list(shares.values()))
    share = invented_share(blended, needed["psnr"])
    return blended, {"branches": branches, "previews": previews, "invented": share}


def stored(context: TaskContext, job: Job, picture: Picture) -> StoredBlob:
    """Store the result of a job in its format."""
    options = job.spec.options

    def encoded() -> Iterable[bytes]:
        if options.format is ResultFormat.PNG:  # some pieces are stored while others are made
            return png_pieces(picture)
        lossless = options.lossless
        return [encode(picture, format=options.format, quality=options.quality, lossless=lossless)]

    return _stored(context, f"results/{job.id}.{context.run}.{options.format}", encoded)


def _stored(context: TaskContext, key: str, encoded: Callable[[], Iterable[bytes]]) -> StoredBlob:
    """Store what is encoded; it is encoded again for each attempt."""
    return retry_while_unavailable(lambda: context.blobs.write(key, encoded()))


def _preview(output: str, picture: Picture) -> list[bytes]:
    factor = min(1.0, _PREVIEW_SIDE / max(picture.width, picture.height))
    width, height = (max(1, round(side * factor)) for side in (picture.width, picture.height))
    reduce = reduced_mask if output == "mask" else reduced
    return [encode_preview(reduce(picture, width=width, height=height))]


def _finish(context: TaskContext, job: Job, result: JobResult) -> None:
    if not context.records.succeed(job.id, run=context.run, result=result):
        discard(context, *result.keys)
        raise _LeaseLost
    log.info("succeeded in %s", result.seconds)
    send(context.reports, JobReport.of(job, result, tuple(context.stages)))
    discard(context, *job.spec.inputs)  # last: without a lease this process may be killed


def _fail(context: TaskContext, job: Job, failure: GDSRError) -> None:
    if context.records.fail(job.id, error=failure, run=context.run):
        log.warning("failed: %s: %s", failure.slug, failure)
        send(context.reports, JobReport.of(job, failure, tuple(context.stages)))
        discard(context, *job.spec.inputs)


def retry_while_unavailable(
    ask: Callable[[], Found],
    retried: tuple[type[GDSRError], ...] = (StorageUnavailable, StorageFull),
) -> Found:
    """Retry with backoff while `ask` raises one of `retried`, until the time limit of the job."""
    pause = 0.5
    while True:
        try:
            return ask()
        except retried as failure:
            log.warning("waiting for the picture store: %s", failure)
            try:
                time.sleep(pause)
            except JobTimeoutException:
                raise failure from None
            pause = min(2 * pause, _LONGEST_PAUSE)


def discard(context: TaskContext, *keys: str) -> None:
    """Delete unneeded blobs; if the store is unavailable, the janitor deletes them later."""
    with suppress(StorageUnavailable):
        context.blobs.delete(*keys)


def _progress(context: TaskContext, job_id: str) -> Callable[[int, int], None]:
    """Writes progress to the record, rate-limited; ends a run that lost its lease."""
    due = 0.0

    def report(done: int, tiles: int) -> None:
        nonlocal due
        now = time.monotonic()
        # The last tile is always reported, as encoding follows; a single one is too fast to report.
        if now < due and (done < tiles or tiles == 1):
            return
        due = now + _PROGRESS_SECONDS
        if not context.records.progress(job_id, run=context.run, tiles_done=done, tiles=tiles):
            raise _LeaseLost

    return report


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Record the time of the block as a stage of the job."""
    began, start = time.time(), time.perf_counter()
    yield
    ended = began + time.perf_counter() - start
    CONTEXT.get().stages.append(Stage(name=stage, began=began, ended=ended))


def spent(context: TaskContext, job: Job) -> dict[str, float]:
    """Seconds of each stage of a job so far, and in the queue."""
    queued = (job.started_at or job.spec.created_at) - job.spec.created_at
    stages = {stage.name: stage.ended - stage.began for stage in context.stages}
    # the clock of the service may be ahead
    seconds = {"queue": max(0.0, queued.total_seconds()), **stages}
    return {stage: round(value, 4) for stage, value in seconds.items()}
