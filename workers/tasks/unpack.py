"""Task: unpack a batch. Each file of its zip becomes a job, or an item with a failure.

Files are decompressed straight into the store, and only their headers are parsed.
"""

import logging
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

import redis

from workers.contract.blobs.base import write_pieces
from workers.contract.errors import BatchNotFound, EntryDamaged, ImageRejected, UploadTooLarge
from workers.contract.images.names import UniqueNames, safe_path
from workers.contract.images.zips import check_is_file, inflated, open_archive, picture_entries
from workers.contract.observability import logs
from workers.contract.queue.admission import Superseded
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import Batch, BatchItem, BatchRecords, unpack_task
from workers.contract.queue.engines import EngineInfo, running
from workers.contract.queue.jobs import JobFailure, JobSpec
from workers.contract.queue.queue import JobQueue, new_job_id, time_limit
from workers.contract.queue.runs import acquire_lease
from workers.contract.queue.validation import ValidatedUpload, validate_upload
from workers.tasks.upscale import CONTEXT, TaskContext, as_error, discard, retry_while_unavailable

log = logging.getLogger(__name__)


def unpack(batch_id: str) -> None:
    """Unpack one batch and queue all its jobs or none. Never raises because of its contents."""
    context = CONTEXT.get()
    batches = BatchRecords(context.records.client, record_ttl=context.settings.record_ttl)
    client, task = context.records.client, unpack_task(batch_id)
    if not acquire_lease(client, task, run=context.run, worker=context.worker):
        return
    try:
        batch = batches.get(batch_id)
    except BatchNotFound:
        return
    logs.job_id.set(None)
    logs.request_id.set(batch.spec.request_id)
    logs.traceparent.set(batch.spec.traceparent)
    stored: list[str] = []
    try:
        _unpack(context, batch, stored)
    except Superseded:
        log.info("the lease of the batch is lost")
        discard(context, *stored)
    except redis.RedisError:
        raise  # the jobs may have been queued, and need their pictures
    except Exception as problem:  # noqa: BLE001 - `as_error` logs unexpected errors
        # no other name: it would keep the frames, and their files, alive
        problem = as_error(problem, "batch", context, batch.spec.time_limit)
        # else the jobs may be queued, if the time limit came while Redis queued them
        if batches.fail(batch.id, error=problem, run=context.run):
            log.warning("the batch failed: %s", problem.slug)
            discard(context, *stored, batch.spec.upload_key)
    else:
        discard(context, batch.spec.upload_key)


def _unpack(context: TaskContext, batch: Batch, stored: list[str]) -> None:
    """Queue the jobs; the keys of their pictures are added to `stored` as they are written."""
    settings, spec = context.settings, batch.spec
    engines = _engines(context)
    names = UniqueNames()
    items: list[BatchItem] = []
    jobs: list[JobSpec] = []
    with ExitStack() as opened:
        file = retry_while_unavailable(
            lambda: opened.enter_context(_upload(context, spec.upload_key))
        )
        archive = open_archive(file)
        entries = picture_entries(
            archive, max_pictures=settings.max_batch_pictures, max_bytes=settings.max_batch_bytes
        )
        for number, entry in enumerate(entries, start=1):
            name = names.add(safe_path(entry.filename) or f"picture-{number}")
            job_id = new_job_id()
            try:
                take = partial(_store_entry, context, batch, archive, entry, engines)
                upload = retry_while_unavailable(partial(take, key=f"inputs/{job_id}"))
            except (ImageRejected, EntryDamaged) as failure:
                items.append(BatchItem(name=name, failure=JobFailure.of(failure)))
                continue
            stored.append(upload.image.key)
            items.append(BatchItem(name=name, job_id=job_id))
            jobs.append(
                JobSpec(
                    id=job_id,
                    image=upload.image,
                    options=upload.options,
                    time_limit=time_limit(upload.image, upload.options, upload.model),
                    name=name.rpartition("/")[2],
                    owner=spec.owner,
                    batch=batch.id,
                    webhook=spec.webhook,
                )
            )
    queue = JobQueue.of(context.records.client, settings, pixels_per_day=spec.pixels_per_day)
    BatchQueue(queue).submit_items(batch, items, jobs, run=context.run)
    log.info("a batch of %d files became %d jobs", len(items), len(jobs))


@contextmanager
def _upload(context: TaskContext, key: str) -> Iterator[BinaryIO]:
    """A local copy of the zip."""
    with context.blobs.incoming() as file:
        write_pieces(file, context.blobs.stream(key))
        yield file


def _store_entry(
    context: TaskContext,
    batch: Batch,
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    engines: list[EngineInfo],
    *,
    key: str,
) -> ValidatedUpload:
    """Store one file, if it is valid."""
    settings = context.settings
    check_is_file(entry)
    if entry.file_size > settings.max_upload_bytes:
        raise UploadTooLarge(limit=settings.max_upload_bytes)
    with context.blobs.incoming() as file:
        size, sha256 = write_pieces(file, inflated(archive, entry))
        upload = validate_upload(
            file,
            batch.spec.requested,
            engines,
            key=key,
            size=size,
            sha256=sha256,
            max_pixels=min(settings.max_pixels, batch.spec.pixels_per_day or settings.max_pixels),
        )
        context.blobs.keep(file, key)
    return upload


def _engines(context: TaskContext) -> list[EngineInfo]:
    """The running engines; waits for an engine that restarts."""
    patience = time.monotonic() + context.settings.engine_patience.total_seconds()
    while not (found := running(context.records.client)) and time.monotonic() < patience:
        time.sleep(0.2)
    return found
