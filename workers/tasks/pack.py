"""Task: pack the results of a batch into one zip.

Pictures are stored uncompressed, as they are compressed already. A picture that failed is replaced
by a small text file with the reason.
"""

import hashlib
import logging
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime

import redis

from workers.contract.blobs.base import translated_disk_errors
from workers.contract.errors import BlobMissing, StorageUnavailable
from workers.contract.images.names import UniqueNames
from workers.contract.observability import logs
from workers.contract.queue.batches import (
    Archive,
    Batch,
    BatchItem,
    BatchRecords,
    Pack,
    pack_id,
    pack_task,
    result_names,
)
from workers.contract.queue.jobs import Job
from workers.contract.queue.runs import acquire_lease
from workers.tasks.upscale import CONTEXT, TaskContext, as_error, discard, retry_while_unavailable

log = logging.getLogger(__name__)


def pack(batch_id: str) -> None:
    """Pack one batch, and record the zip or the reason why there is none."""
    context = CONTEXT.get()
    batches = BatchRecords(context.records.client, record_ttl=context.settings.record_ttl)
    client, task = context.records.client, pack_task(batch_id)
    if not acquire_lease(client, task, run=context.run, worker=context.worker):
        return
    started = batches.pack(batch_id)
    if started is None:
        return
    try:
        batch = batches.get(batch_id)
        logs.job_id.set(None)
        logs.request_id.set(batch.spec.request_id)
        logs.traceparent.set(batch.spec.traceparent)
        # A full store is reported at once: the results can still be fetched one by one.
        archive = retry_while_unavailable(lambda: _packed(context, batch), (StorageUnavailable,))
    except redis.RedisError:
        raise  # the lease is lost
    except Exception as problem:  # noqa: BLE001 - `as_error` logs unexpected errors
        # no other name: it would keep the frames, and their files, alive
        problem = as_error(problem, "packing", context, started.time_limit)
        log.warning("packing failed: %s", problem.slug)
        batches.fail_pack(batch_id, error=problem, run=context.run)
        return
    log.info("packed %d results", len(batch.job_ids))
    kept, ended = context.settings.result_ttl, Pack(archive=archive)
    if not batches.end_pack(batch_id, ended, run=context.run, kept=kept):
        discard(context, archive.key)


def _packed(context: TaskContext, batch: Batch) -> Archive:
    key = f"results/{pack_id(batch.id)}.{context.run}.zip"
    jobs = context.records.get_many(batch.job_ids)
    names, items = UniqueNames(), batch.items or ()
    paths = result_names(items, jobs, names)
    with context.blobs.incoming() as file:
        with translated_disk_errors(), zipfile.ZipFile(file, "w") as archive:
            for item in items:
                job = jobs.get(item.job_id or "")
                if job is None or not _add_result(context, archive, paths[job.id], job):
                    _add(archive, names.add(f"{item.name}.txt"), [_reason(item, job)])
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        context.blobs.keep(file, key)
    expires_at = datetime.now(UTC) + context.settings.result_ttl
    return Archive(key=key, size=size, sha256=digest, expires_at=expires_at)


def _add_result(context: TaskContext, archive: zipfile.ZipFile, name: str, job: Job) -> bool:
    """Add a result to the zip; returns whether there is one."""
    if job.result is None:
        return False
    try:
        pieces = context.blobs.stream(job.result.key)
    except BlobMissing:
        return False
    _add(archive, name, pieces, moment=job.finished_at)
    return True


def _add(
    archive: zipfile.ZipFile,
    name: str,
    pieces: "Iterator[bytes] | list[bytes]",
    *,
    moment: datetime | None = None,
) -> None:
    entry = zipfile.ZipInfo(name, (moment or datetime.now(UTC)).timetuple()[:6])
    entry.external_attr = 0o644 << 16
    with archive.open(entry, "w", force_zip64=True) as file:
        for piece in pieces:
            file.write(piece)


def _reason(item: BatchItem, job: Job | None) -> bytes:
    failure = item.failure or (job and job.failure)
    if failure:
        text = f"{failure.detail} ({failure.slug})"
    elif job is not None and job.result is None:
        text = f"the job was {job.state}"
    else:
        text = "the result was deleted or has expired"
    return f"{text}\n".encode()
