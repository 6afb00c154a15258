"""Batches on the queue: the upload to be unpacked, the jobs that it becomes, the zip of results.

The jobs of a batch are queued in one step: all of them, or none where the queue has no room.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import redis

from workers.contract.errors import JobCancelled
from workers.contract.observability import logs
from workers.contract.queue.admission import Load, admit
from workers.contract.queue.batches import (
    Batch,
    BatchItem,
    BatchRecords,
    BatchSpec,
    Pack,
    batch_key,
    pack_key,
    pack_task,
    unpack_task,
)
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import JobSpec
from workers.contract.queue.queue import TIME_LIMIT_BASE, JobQueue
from workers.contract.queue.records import job_key
from workers.contract.queue.rq_queue import LARGE, SMALL, open_queue
from workers.contract.queue.validation import RequestedOptions

#: Bytes a second that unpacking and packing are sure to do.
_BYTES_PER_SECOND = 2_000_000
#: A zip of more bytes does not wait among the small pictures.
_SMALL_BYTES = 64 * 1024**2


class BatchQueue:
    """Both sides: the service submits, looks and erases; a worker queues the jobs."""

    def __init__(self, jobs: JobQueue) -> None:
        self.jobs = jobs
        self.client: redis.Redis = jobs.client
        self.records = BatchRecords(jobs.client, record_ttl=jobs.records.record_ttl)

    def submit(
        self,
        batch_id: str,
        wishes: RequestedOptions,
        *,
        size: int,
        pictures: int,
        largest: int,
        name: str | None = None,
        webhook: str | None = None,
        owner: str = "",
        idempotency: IdempotencyKey | None = None,
    ) -> Batch:
        """Queue a stored zip to be unpacked; it may become `largest` bytes. The batch is another
        one if that has the claim.

        Raises:
            QueueFull: its pictures would be more than may wait, as it looks now.
            IdempotencyKeyReused: the idempotency key came with something else meanwhile.
            QueueUnavailable: Redis did not take it, or, unless it says that it refused, maybe did.
        """
        spec = BatchSpec(
            id=batch_id,
            created_at=datetime.now(UTC),
            owner=owner,
            name=name,
            webhook=webhook,
            size=size,
            pictures=pictures,
            wishes=wishes,
            pixels_per_day=self.jobs.bounds.pixels_per_day,
            time_limit=_time_limit(largest),
            request_id=logs.request_id.get(),
            traceparent=logs.traceparent.get(),
        )
        with redis_down_is_queue_unavailable(), self.client.pipeline(transaction=True) as pipe:
            batch = self.records.add(
                spec, pipe, queue=self._push(unpack_task(batch_id), size, pipe)
            )
            if idempotency is not None:
                idempotency.write(pipe)
            mark = batch_key(batch_id) if idempotency is None else idempotency.redis_key
            load = Load(owner=owner, jobs=pictures)
            taken = admit(self.client, pipe, load, self.jobs.bounds, unless=mark)
            existing = None if taken or idempotency is None else idempotency.existing(self.client)
            return batch if existing in (None, batch_id) else self.records.get(str(existing))

    def submit_items(
        self, batch: Batch, items: Sequence[BatchItem], specs: Sequence[JobSpec], *, run: str
    ) -> None:
        """Queue all jobs of a batch and say what its files became, in one step.

        Raises:
            QueueFull: there is no room for all of them.
            PixelsExceeded: the owner may not send so many pixels today.
            Overtaken: the batch was erased, or another run unpacks it.
        """
        load = Load(
            owner=batch.spec.owner, pixels=sum(spec.pixels for spec in specs), jobs=len(specs)
        )
        with self.client.pipeline(transaction=True) as pipe:
            for spec in specs:
                self.jobs.add(spec, pipe)
            self.records.unpacked(batch.id, items, pipe)
            # The id of its first job is of this run alone, so its record says that this was done.
            mark = job_key(specs[0].id if specs else "")
            key = batch_key(batch.id)
            admit(self.client, pipe, load, self.jobs.bounds, unless=mark, hash_key=key, run=run)

    def get(self, batch_id: str) -> Batch:
        """The batch as it is now.

        Raises:
            BatchNotFound: there is no such batch.
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.get(batch_id)

    def pack(self, batch_id: str) -> Pack | None:
        """How the zip of its results is doing, if anybody packs it.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.pack(batch_id)

    def submit_pack(self, batch_id: str, *, size: int) -> None:
        """Queue the packing of results of so many bytes, unless somebody did.

        Raises:
            QueueFull: as many jobs wait as may.
            QueueUnavailable: Redis did not take it.
        """
        pack = Pack(token=secrets.token_hex(8), time_limit=_time_limit(size))
        with redis_down_is_queue_unavailable(), self.client.pipeline(transaction=True) as pipe:
            queue = self._push(pack_task(batch_id), size, pipe)
            self.records.begin_pack(batch_id, pack, pipe, queue=queue)
            mark = pack_key(batch_id)
            admit(self.client, pipe, Load(owner=""), self.jobs.bounds, unless=mark)

    def forget_pack(self, batch_id: str) -> tuple[str, ...]:
        """Stop packing, or let it be packed anew; the keys of what was stored.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            self.jobs.withdraw(pack_task(batch_id))
            archive = self.records.forget_pack(batch_id)
            return () if archive is None else (archive.key,)

    def stop(self, batch_id: str) -> bool:
        """Let no jobs come of a batch. False: it is unpacked already.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.fail(batch_id, error=JobCancelled(batch_id))

    def erase(self, batch: Batch) -> None:
        """Forget a batch, but not its jobs; what unpacks it stops.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            if batch.items is None:
                self.jobs.withdraw(unpack_task(batch.id))
            self.records.erase(batch.id)

    def _push(self, task: str, size: int, pipe: "redis.client.Pipeline") -> str:
        """Queue a task that reads so many bytes, as part of a transaction; the queue's name."""
        name = SMALL if size <= _SMALL_BYTES else LARGE
        open_queue(name, self.client).push_job_id(task, pipeline=pipe)
        return name


def _time_limit(size: int) -> timedelta:
    return TIME_LIMIT_BASE + timedelta(seconds=size / _BYTES_PER_SECOND)
