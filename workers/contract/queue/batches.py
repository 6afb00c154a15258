"""Batches in Redis: many pictures that came together, and the zip of their results.

The pictures are jobs like any other. A batch has a record of its own, which says what was sent
until it is unpacked and which jobs it became afterwards, in order; and a note for its zip, while
that is being packed and as long as it is kept.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import redis

from workers.contract.errors import BatchNotFound, GDSRError
from workers.contract.queue.connection import retry_once
from workers.contract.queue.jobs import JobFailure, Record
from workers.contract.queue.runs import LEASES, WAITING, acquire_lease, record_key
from workers.contract.queue.validation import RequestedOptions

#: Ids of batches that are not unpacked yet, by time of creation.
UNPACKING = "gdsr:batches:unpacking"
#: How many lifetimes of a record that of a batch is kept: its jobs may wait and run for a while.
_LIFETIMES = 2

_FAIL = """
if redis.call('hget', KEYS[1], 'move') == ARGV[4] then return 1 end
if ARGV[3] ~= '' and redis.call('hget', KEYS[1], 'run') ~= ARGV[3] then return 0 end
redis.call('zrem', KEYS[2], ARGV[2])
redis.call('hdel', KEYS[3], 'batch-' .. ARGV[2])
redis.call('zrem', KEYS[4], 'batch-' .. ARGV[2])
if redis.call('exists', KEYS[1]) == 0 then return 0 end
if redis.call('hexists', KEYS[1], 'items') == 1 then return 0 end
redis.call('hset', KEYS[1], 'failure', ARGV[1], 'state', 'ended', 'run', '', 'move',
  ARGV[4])
return 1
"""
_END_PACK = """
local found = redis.call('hget', KEYS[1], 'note')
if not found or cjson.decode(found)['token'] ~= ARGV[1] then return 0 end
redis.call('hset', KEYS[1], 'note', ARGV[2], 'state', 'ended')
redis.call('expire', KEYS[1], ARGV[3])
redis.call('hdel', KEYS[2], ARGV[4])
redis.call('zrem', KEYS[3], ARGV[4])
return 1
"""
#: How long a failure to pack is told before it may be tried again.
FAILURE_KEPT = timedelta(seconds=30)


class BatchSpec(Record):
    """The part of a batch that never changes."""

    id: str
    created_at: datetime
    owner: str = ""
    name: str | None = None
    """What the client calls its zip, made safe."""
    size: int
    """Bytes of the upload, which is a zip, or was made one of the parts of a form."""
    pictures: int
    wishes: RequestedOptions
    """The same for all pictures."""
    webhook: str | None = None
    """Address to tell when a picture is through, of each."""
    pixels_per_day: int | None = None
    """What the owner may send."""
    time_limit: timedelta
    """For the unpacking."""
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def upload_key(self) -> str:
        """Where the upload is stored until it is unpacked."""
        return f"inputs/{self.id}"


class BatchItem(Record):
    """One file of a batch: a job, or why there is none."""

    name: str
    """Its path, made safe and unique."""
    job_id: str | None = None
    failure: JobFailure | None = None


class Batch(Record):
    """A batch as it is now."""

    spec: BatchSpec
    items: tuple[BatchItem, ...] | None = None
    """None until it is unpacked."""
    failure: JobFailure | None = None
    """Why it could not be."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def job_ids(self) -> list[str]:
        """Of the pictures that became jobs, in order."""
        return [item.job_id for item in self.items or () if item.job_id]


class Archive(Record):
    """A zip of results."""

    key: str
    size: int
    sha256: str
    expires_at: datetime


class Pack(Record):
    """How the zip of a batch is doing: neither of these two while it is packed."""

    token: str
    time_limit: timedelta = timedelta(minutes=10)
    archive: Archive | None = None
    failure: JobFailure | None = None


class BatchRecords:
    """The records of all batches in one Redis."""

    def __init__(self, client: redis.Redis, *, record_ttl: timedelta) -> None:
        self.client = client
        self.lifetime = _LIFETIMES * record_ttl
        self._fail = client.register_script(_FAIL)
        self._end_pack = client.register_script(_END_PACK)

    def add(self, spec: BatchSpec, pipe: "redis.client.Pipeline", *, queue: str) -> Batch:
        """Write a new record as part of a transaction that puts `batch-ID` into the queue."""
        pipe.hset(
            batch_key(spec.id),
            mapping={
                "spec": spec.model_dump_json(),
                "state": "queued",
                "queue": queue,
            },
        )
        pipe.expire(batch_key(spec.id), self.lifetime)
        pipe.zadd(UNPACKING, {spec.id: spec.created_at.timestamp()})
        pipe.hset(WAITING, unpack_task(spec.id), 0)
        return Batch(spec=spec)

    def get(self, batch_id: str) -> Batch:
        """The batch as it is now.

        Raises:
            BatchNotFound: there is none, or its record has expired.
        """
        fields = {
            _text(name): json.loads(value)
            for name, value in self.client.hgetall(batch_key(batch_id)).items()
            if _text(name) in Batch.model_fields
        }
        if "spec" not in fields:
            raise BatchNotFound(batch_id)
        return Batch.model_validate(fields)

    def start(self, batch_id: str, *, run: str, worker: str = "") -> bool:
        """Claim the unpacking for a run. False: it does not wait, or is erased."""
        return acquire_lease(self.client, unpack_task(batch_id), run=run, worker=worker)

    def unpacked(
        self, batch_id: str, items: Sequence[BatchItem], pipe: "redis.client.Pipeline"
    ) -> None:
        """Say what became of the files, as part of the transaction that queues their jobs."""
        written = json.dumps([item.model_dump(mode="json") for item in items])
        pipe.hset(batch_key(batch_id), mapping={"items": written, "state": "ended"})
        pipe.expire(batch_key(batch_id), self.lifetime)
        pipe.zrem(UNPACKING, batch_id)
        pipe.zrem(LEASES, unpack_task(batch_id))

    def fail(self, batch_id: str, *, error: GDSRError, run: str = "") -> bool:
        """End the batch without jobs. False: it is unpacked or erased, or another run has it."""
        keys = [batch_key(batch_id), UNPACKING, WAITING, LEASES]
        args = [JobFailure.of(error).model_dump_json(), batch_id, run, secrets.token_hex(8)]
        return bool(retry_once(lambda: self._fail(keys=keys, args=args)))

    def unpacking(self) -> list[str]:
        """Ids of the batches that are not unpacked yet."""
        members = self.client.zrange(UNPACKING, 0, -1)
        return [_text(member) for member in members if isinstance(member, (bytes, str))]

    def erase(self, batch_id: str) -> None:
        """Forget a batch, but not its jobs."""
        with self.client.pipeline() as pipe:
            pipe.delete(batch_key(batch_id), pack_key(batch_id))
            pipe.zrem(UNPACKING, batch_id)
            pipe.hdel(WAITING, unpack_task(batch_id), pack_task(batch_id))
            pipe.zrem(LEASES, unpack_task(batch_id), pack_task(batch_id))
            pipe.execute()

    def pack(self, batch_id: str) -> Pack | None:
        """The zip of the batch; None: nobody packs it."""
        found = self.client.hget(pack_key(batch_id), "note")
        return None if found is None else Pack.model_validate_json(found)

    def begin_pack(
        self, batch_id: str, pack: Pack, pipe: "redis.client.Pipeline", *, queue: str
    ) -> None:
        """Note that it is packed, as part of a transaction that puts `zip-ID` into the queue."""
        pipe.hset(
            pack_key(batch_id),
            mapping={
                "note": pack.model_dump_json(),
                "state": "queued",
                "queue": queue,
            },
        )
        pipe.hset(WAITING, pack_task(batch_id), 0)

    def end_pack(self, batch_id: str, pack: Pack, *, kept: timedelta) -> bool:
        """Say how it ended. False: what was packed was erased meanwhile."""
        seconds, task = max(1, int(kept.total_seconds())), pack_task(batch_id)
        keys, args = [pack_key(batch_id), WAITING, LEASES], [pack.token, pack.model_dump_json()]
        return bool(retry_once(lambda: self._end_pack(keys=keys, args=[*args, seconds, task])))

    def fail_pack(self, batch_id: str, *, error: GDSRError) -> bool:
        """Say that it cannot be packed now. False: it was erased meanwhile."""
        pack = self.pack(batch_id)
        if pack is None:
            return False
        failed = pack.model_copy(update={"failure": JobFailure.of(error)})
        return self.end_pack(batch_id, failed, kept=FAILURE_KEPT)

    def forget_pack(self, batch_id: str) -> Archive | None:
        """Let the zip be packed anew; the one that there is, to be deleted."""
        with self.client.pipeline() as pipe:
            pipe.hget(pack_key(batch_id), "note")
            pipe.delete(pack_key(batch_id))
            pipe.hdel(WAITING, pack_task(batch_id))
            pipe.zrem(LEASES, pack_task(batch_id))
            found = pipe.execute()[0]
        return None if found is None else Pack.model_validate_json(found).archive


def pack_id(batch_id: str) -> str:
    """What the name of its zip begins with in the store."""
    return hashlib.sha256(f"zip of {batch_id}".encode()).hexdigest()[:32]


def unpack_task(batch_id: str) -> str:
    """The task that makes jobs of it."""
    return f"batch-{batch_id}"


def pack_task(batch_id: str) -> str:
    """The task that packs its zip."""
    return f"zip-{batch_id}"


def batch_key(batch_id: str) -> str:
    """The hash that is its record."""
    return record_key(unpack_task(batch_id))


def pack_key(batch_id: str) -> str:
    """The note for its zip."""
    return record_key(pack_task(batch_id))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
