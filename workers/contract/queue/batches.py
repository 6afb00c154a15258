"""Batch records in Redis: many pictures from one upload, and the zip of their results.

The pictures are ordinary jobs. A batch record describes the upload until it is unpacked and lists
its jobs afterwards, in order. A second record describes the zip while it is packed and as long as
it is kept.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import cast

import redis

from workers.contract.blobs.base import StoredBlob
from workers.contract.errors import BatchNotFound, GDSRError
from workers.contract.images.formats import extension
from workers.contract.images.names import UniqueNames
from workers.contract.queue.connection import as_text, retry_once
from workers.contract.queue.jobs import Job, JobFailure, Spec
from workers.contract.queue.runs import EVENTS, LEASES, WAITING, record_key
from workers.contract.queue.validation import RequestedOptions
from workers.contract.record import Record

#: Ids of batches that are not unpacked yet, by creation time.
UNPACKING = "gdsr:batches:unpacking"
#: Lifetime of a batch record in lifetimes of a job record: its jobs may wait and run for a while.
_LIFETIMES = 2

#: Ends the unpacking of a batch, unless its jobs are queued, or the packing of its zip.
_END = """
if redis.call('hget', KEYS[1], 'move') == ARGV[1] then return 1 end
local state, run = unpack(redis.call('hmget', KEYS[1], 'state', 'run'))
if ARGV[2] ~= '' and (state ~= 'running' or run ~= ARGV[2]) then return 0 end
redis.call('hdel', KEYS[2], ARGV[3])
redis.call('zrem', KEYS[3], ARGV[3])
redis.call('zrem', KEYS[4], ARGV[4])
if not state or redis.call('hexists', KEYS[1], 'items') == 1 then return 0 end
redis.call('hset', KEYS[1], 'move', ARGV[1], 'state', 'ended', 'run', '', ARGV[5], ARGV[6])
redis.call('expire', KEYS[1], ARGV[7])
redis.call('publish', ARGV[8], ARGV[4] .. ' packed')
return 1
"""
#: How long a packing failure is reported before packing may be retried.
_FAILURE_KEPT = timedelta(seconds=30)


class BatchSpec(Spec):
    """The immutable part of a batch."""

    size: int
    """Size of the upload in bytes; the pictures of a form were put into a zip."""
    pictures: int
    requested: RequestedOptions
    """Options for all pictures."""
    pixels_per_day: int | None = None
    """The owner's pixel quota."""
    derived_from: str | None = None
    """For a batch of derived results: the batch that they are derived from."""

    @property
    def upload_key(self) -> str:
        """Blob key of the upload until it is unpacked."""
        return f"inputs/{self.id}"


class BatchItem(Record):
    """One file of a batch: a job, or the reason why there is none."""

    name: str
    """Sanitised path, unique in the batch."""
    job_id: str | None = None
    failure: JobFailure | None = None


class Batch(Record):
    """The current state of a batch."""

    spec: BatchSpec
    items: tuple[BatchItem, ...] | None = None
    """None until it is unpacked."""
    failure: JobFailure | None = None
    """Why unpacking failed."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def job_ids(self) -> list[str]:
        """Ids of the jobs, in order."""
        return [item.job_id for item in self.items or () if item.job_id]


def result_names(
    items: Sequence[BatchItem], jobs: Mapping[str, Job | None], names: UniqueNames
) -> dict[str, str]:
    """The path of each job's result in the zip, by the job's id; added to `names`.

    A failed job keeps its path, so that the paths of the others do not depend on its outcome.
    """
    found = {}
    for item in items:
        job = jobs.get(item.job_id or "")
        if job is not None:
            path = PurePosixPath(item.name)
            ending = extension(job.spec.options.format)
            found[job.id] = names.add(str(path.with_name(f"{path.stem}.{ending}")))
    return found


class Archive(StoredBlob):
    """A zip of results."""

    expires_at: datetime


class Pack(Record):
    """State of the packing: in progress while it has neither archive nor failure."""

    time_limit: timedelta = timedelta(minutes=10)
    archive: Archive | None = None
    failure: JobFailure | None = None


class BatchRecords:
    """All batch records in one Redis."""

    def __init__(self, client: redis.Redis, *, record_ttl: timedelta) -> None:
        self.client = client
        self.lifetime = _LIFETIMES * record_ttl

    def get(self, batch_id: str) -> Batch:
        """The current state of a batch.

        Raises:
            BatchNotFound: there is none, or its record has expired.
        """
        fields = {
            as_text(name): json.loads(value)
            for name, value in self.client.hgetall(batch_key(batch_id)).items()
            if as_text(name) in Batch.model_fields
        }
        if "spec" not in fields:
            raise BatchNotFound(batch_id)
        return Batch.model_validate(fields)

    def write_items(
        self, batch_id: str, items: Sequence[BatchItem], pipe: "redis.client.Pipeline"
    ) -> None:
        """Record the items, as part of the transaction that queues their jobs."""
        written = json.dumps([item.model_dump(mode="json") for item in items])
        pipe.hset(batch_key(batch_id), mapping={"items": written, "state": "ended"})
        pipe.expire(batch_key(batch_id), self.lifetime)

    def fail(self, batch_id: str, *, error: GDSRError, run: str = "") -> bool:
        """Mark the batch as failed. False if it is unpacked, deleted, or leased to another run."""
        failure = JobFailure.of(error).model_dump_json()
        return self._end(unpack_task(batch_id), run, "failure", failure, kept=self.lifetime)

    def unpacking(self) -> list[str]:
        """Ids of the batches that are not unpacked yet."""
        return list(map(as_text, cast("list[bytes]", self.client.zrange(UNPACKING, 0, -1))))

    def unpacking_since(self) -> datetime:
        """Creation time of the oldest batch that is not unpacked yet; now if there is none."""
        found = self.client.zrange(UNPACKING, 0, 0, withscores=True)
        oldest = cast("list[tuple[bytes, float]]", found)
        created = [datetime.fromtimestamp(seconds, UTC) for _, seconds in oldest]
        return min([datetime.now(UTC), *created])

    def erase(self, batch_id: str) -> None:
        """Delete a batch record, but not its jobs."""
        with self.client.pipeline() as pipe:
            forget_task(unpack_task(batch_id), pipe)
            forget_task(pack_task(batch_id), pipe)
            pipe.zrem(UNPACKING, batch_id)
            pipe.execute()

    def pack(self, batch_id: str) -> Pack | None:
        """State of the packing; None if it was not started."""
        found = self.client.hget(pack_key(batch_id), "note")
        return None if found is None else Pack.model_validate_json(found)

    def end_pack(self, batch_id: str, pack: Pack, *, run: str, kept: timedelta) -> bool:
        """Record the end of packing; False if the run lost its lease, or the batch was deleted."""
        return self._end(pack_task(batch_id), run, "note", pack.model_dump_json(), kept=kept)

    def fail_pack(self, batch_id: str, *, error: GDSRError, run: str) -> bool:
        """Record that packing failed, in this run or, if none, in any; False as in `end_pack`."""
        failed = Pack(failure=JobFailure.of(error))
        return self.end_pack(batch_id, failed, run=run, kept=_FAILURE_KEPT)

    def forget_pack(self, batch_id: str) -> Archive | None:
        """Delete the packing record; returns the existing zip, which has to be deleted."""
        with self.client.pipeline() as pipe:
            pipe.hget(pack_key(batch_id), "note")
            forget_task(pack_task(batch_id), pipe)
            found = pipe.execute()[0]
        return None if found is None else Pack.model_validate_json(found).archive

    def _end(self, task: str, run: str, field: str, value: str, *, kept: timedelta) -> bool:
        batch_id = task.partition("-")[2]
        keys = [record_key(task), WAITING, LEASES, UNPACKING]
        move, seconds = secrets.token_hex(8), max(1, int(kept.total_seconds()))
        args = (move, run, task, batch_id, field, value, seconds, EVENTS)
        return bool(retry_once(lambda: self.client.eval(_END, len(keys), *keys, *args)))


def forget_task(task: str, pipe: "redis.client.Pipeline") -> None:
    """Delete the record of a task, its place in the queue and its lease, in a transaction."""
    pipe.delete(record_key(task))
    pipe.hdel(WAITING, task)
    pipe.zrem(LEASES, task)


def pack_id(batch_id: str) -> str:
    """Prefix of the blob keys of its zip."""
    return hashlib.sha256(f"zip of {batch_id}".encode()).hexdigest()[:32]


def unpack_task(batch_id: str) -> str:
    """Name of the unpacking task."""
    return f"batch-{batch_id}"


def pack_task(batch_id: str) -> str:
    """Name of the packing task."""
    return f"zip-{batch_id}"


def batch_key(batch_id: str) -> str:
    """Redis key of its record."""
    return record_key(unpack_task(batch_id))


def pack_key(batch_id: str) -> str:
    """Redis key of its packing record."""
    return record_key(pack_task(batch_id))
