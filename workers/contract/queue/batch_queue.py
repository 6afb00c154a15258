"""The batch queue: unpacking uploads, queueing their jobs, packing results.

The jobs of a batch are queued in one atomic step: all of them, or none if the queue has no room.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import redis

from workers.contract.errors import JobCancelled
from workers.contract.queue.admission import Load, admit
from workers.contract.queue.batches import (
    UNPACKING,
    Batch,
    BatchItem,
    BatchRecords,
    BatchSpec,
    Pack,
    batch_key,
    forget_task,
    pack_key,
    pack_task,
    unpack_task,
)
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import Job, JobSpec
from workers.contract.queue.queue import TIME_LIMIT_BASE, JobQueue
from workers.contract.queue.records import job_key
from workers.contract.queue.runs import (
    LARGE,
    LEASES,
    SMALL,
    WAITING,
    derived_key,
    open_queue,
    record_key,
)

#: Guaranteed throughput of unpacking and packing, in bytes per second.
_BYTES_PER_SECOND = 2_000_000
#: Larger zips do not use the queue of small pictures.
_SMALL_BYTES = 64 * 1024**2


class BatchQueue:
    """Used by both sides: the service submits, reads and deletes; a worker queues the jobs.

    Each method but `submit_items` raises QueueUnavailable if Redis does not answer.
    """

    def __init__(self, jobs: JobQueue) -> None:
        self.jobs = jobs
        self.client: redis.Redis = jobs.client
        self.records = BatchRecords(jobs.client, record_ttl=jobs.records.record_ttl)

    def submit(self, spec: BatchSpec, *, idempotency: IdempotencyKey | None = None) -> Batch:
        """Queue a stored zip for unpacking. Returns the existing batch if the idempotency key has
        one.

        Raises:
            BatchTooLarge: it has more pictures than the queue ever holds.
            QueueFull: its pictures would exceed the queue limit at present.
            IdempotencyKeyReused: the idempotency key was used for another request.
            QueueUnavailable: Redis failed; unless it refused, the batch may have been queued.
        """
        with translated_redis_errors(), self.client.pipeline(transaction=True) as pipe:
            self._push(unpack_task(spec.id), spec.size, pipe, spec=spec.model_dump_json())
            pipe.expire(batch_key(spec.id), self.records.lifetime)
            pipe.zadd(UNPACKING, {spec.id: spec.created_at.timestamp()})
            if idempotency is not None:
                idempotency.write(pipe)
            mark = batch_key(spec.id) if idempotency is None else idempotency.redis_key
            load = Load(owner=spec.owner, jobs=spec.pictures)
            taken = admit(self.client, pipe, load, self.jobs.bounds, unless=[mark])
            existing = None if taken or idempotency is None else idempotency.existing(self.client)
            if existing in (None, spec.id):
                return Batch(spec=spec)
            return self.records.get(str(existing))

    def submit_items(
        self, batch: Batch, items: Sequence[BatchItem], specs: Sequence[JobSpec], *, run: str
    ) -> None:
        """Queue all jobs of a batch and record its items, in one step.

        Raises:
            BatchTooLarge: they alone exceed the limits of the queue or the quota.
            QueueFull: the queue cannot hold all of them.
            PixelsExceeded: the owner's pixel quota is exceeded.
            Superseded: the batch was deleted, or another run unpacks it.
        """
        load = Load(
            owner=batch.spec.owner, pixels=sum(spec.pixels for spec in specs), jobs=len(specs)
        )
        with self.client.pipeline(transaction=True) as pipe:
            for spec in specs:
                self.jobs.add(spec, pipe)
            self.records.write_items(batch.id, items, pipe)
            pipe.zrem(UNPACKING, batch.id)
            pipe.zrem(LEASES, unpack_task(batch.id))
            # The id of the first job is unique to this run, so its record marks that the step was
            # executed.
            mark = job_key(specs[0].id if specs else "")
            key = batch_key(batch.id)
            admit(self.client, pipe, load, self.jobs.bounds, unless=[mark], hash_key=key, run=run)

    def submit_derived(
        self,
        batch_id: str,
        source: Batch,
        items: Sequence[BatchItem],
        specs: Sequence[JobSpec],
        *,
        instead: Mapping[str, Job],
        again: bool,
    ) -> Batch | None:
        """Queue jobs of a batch derived from another, and record its items, in one step; they
        replace the ended jobs `instead`, by id. Returns None if one of the jobs exists or, unless
        it is made `again`, the batch.

        Raises:
            QueueFull: the queue cannot hold all of them.
            PixelsExceeded: the owner's pixel quota is exceeded.
        """
        spec = source.spec.derived(id=batch_id, derived_from=source.id)
        load = Load(owner=spec.owner, pixels=sum(blend.pixels for blend in specs), jobs=len(specs))
        with translated_redis_errors(), self.client.pipeline(transaction=True) as pipe:
            for blend in specs:
                self.jobs.add_blend(blend, pipe, instead=instead.get(blend.id))
            forget_task(pack_task(batch_id), pipe)  # of an earlier one, which this replaces
            pipe.hset(batch_key(batch_id), "spec", spec.model_dump_json())
            self.records.write_items(batch_id, items, pipe)
            pipe.sadd(derived_key(source.id), batch_id)
            pipe.expire(derived_key(source.id), self.records.lifetime)
            marks = [job_key(blend.id) for blend in specs]
            if not again:
                marks.append(batch_key(batch_id))
            # without a mark there is nothing that could be done twice
            taken = admit(self.client, pipe, load, self.jobs.bounds, unless=marks or [job_key("")])
            return Batch(spec=spec, items=tuple(items)) if taken else None

    def get(self, batch_id: str) -> Batch:
        """The current state of a batch.

        Raises:
            BatchNotFound: there is no such batch.
        """
        with translated_redis_errors():
            return self.records.get(batch_id)

    def pack(self, batch_id: str) -> Pack | None:
        """State of the packing of a batch; None if it was not started."""
        with translated_redis_errors():
            return self.records.pack(batch_id)

    def submit_pack(self, batch_id: str, *, size: int) -> None:
        """Queue the packing of results of `size` bytes, unless it was started already.

        Raises:
            QueueFull: the queue limit is reached.
        """
        pack = Pack(time_limit=zip_time_limit(size))
        with translated_redis_errors(), self.client.pipeline(transaction=True) as pipe:
            self._push(pack_task(batch_id), size, pipe, note=pack.model_dump_json())
            mark = pack_key(batch_id)
            admit(self.client, pipe, Load(owner=""), self.jobs.bounds, unless=[mark])

    def forget_pack(self, batch_id: str) -> tuple[str, ...]:
        """Stop packing and allow a new start; returns the keys of stored blobs."""
        with translated_redis_errors():
            self.jobs.withdraw(pack_task(batch_id))
            archive = self.records.forget_pack(batch_id)
            return () if archive is None else (archive.key,)

    def stop(self, batch_id: str) -> bool:
        """Stop the unpacking of a batch. Returns False if it is unpacked already."""
        with translated_redis_errors():
            return self.records.fail(batch_id, error=JobCancelled(batch_id))

    def erase(self, batch: Batch) -> None:
        """Delete a batch, but not its jobs; stops its unpacking."""
        with translated_redis_errors():
            if batch.items is None:
                self.jobs.withdraw(unpack_task(batch.id))
            self.records.erase(batch.id)

    def _push(self, task: str, size: int, pipe: "redis.client.Pipeline", **fields: str) -> None:
        """Add a task that reads `size` bytes, and its record, to a transaction."""
        queue = SMALL if size <= _SMALL_BYTES else LARGE
        open_queue(queue, self.client).push_job_id(task, pipeline=pipe)
        record: dict[Any, str] = {**fields, "state": "queued", "queue": queue}
        pipe.hset(record_key(task), mapping=record)
        pipe.hset(WAITING, task, 0)


def zip_time_limit(size: int) -> timedelta:
    """Time limit of unpacking or packing, by the size of the contents in bytes."""
    return TIME_LIMIT_BASE + timedelta(seconds=size / _BYTES_PER_SECOND)
