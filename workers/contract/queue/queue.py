"""The job queue as used by the service: submit, read, cancel."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

import redis

from workers.contract.errors import QueueFull
from workers.contract.images.options import AlphaMode, DepthMode
from workers.contract.queue.admission import Load, QueueLimits, admit, shortage
from workers.contract.queue.connection import as_text, translated_redis_errors
from workers.contract.queue.engines import ModelInfo, running
from workers.contract.queue.estimates import QueuePosition, queue_position, queue_positions, speed
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import (
    WITH_MAP,
    ImageInfo,
    Job,
    JobResult,
    JobSpec,
    JobState,
    Part,
    UpscaleOptions,
)
from workers.contract.queue.records import JobPage, JobRecords, job_key
from workers.contract.queue.runs import ACTIVE, EVENTS, LARGE, SMALL, derived_key, open_queue
from workers.contract.settings import SharedSettings

#: Time limit of a job: this constant plus a multiple of the time that the engine alone needs.
TIME_LIMIT_BASE = timedelta(seconds=120)
TIME_LIMIT_FACTOR = 30
#: Upper bound for how much longer four outputs take than one, including their encoding.
_KEEPING_FACTOR = 2
#: Upper bound for how much slower float32 is than the measured speed; 16-bit results use it.
FLOAT32_FACTOR = 8


_FORGET = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class JobQueue:
    """Each method raises QueueUnavailable if Redis does not answer."""

    def __init__(
        self, client: redis.Redis, *, record_ttl: timedelta, bounds: QueueLimits, small_pixels: int
    ) -> None:
        self.client = client
        self.records = JobRecords(client, record_ttl=record_ttl)
        self.bounds = bounds
        self.small_pixels = small_pixels

    @classmethod
    def of(
        cls, client: redis.Redis, settings: SharedSettings, *, pixels_per_day: int | None
    ) -> Self:
        """The queue with the limits of the settings, and an owner's pixel quota."""
        bounds = QueueLimits(
            jobs=settings.max_queued_jobs,
            pixels=settings.max_queued_pixels,
            pixels_per_day=pixels_per_day,
        )
        ttl, small = settings.record_ttl, settings.small_pixels
        return cls(client, record_ttl=ttl, bounds=bounds, small_pixels=small)

    def submit(
        self,
        job_id: str,
        image: ImageInfo,
        options: UpscaleOptions,
        model: ModelInfo,
        *,
        name: str | None = None,
        owner: str = "",
        webhook: str | None = None,
        idempotency: IdempotencyKey | None = None,
        cache_key: str | None = None,
        result: JobResult | None = None,
    ) -> Job:
        """Queue a stored picture. Record, queue entry and idempotency key are written atomically.

        With a result, whose blob must be stored, the job is created as succeeded. Equal uploads
        find the job by its cache key. If the idempotency key has a job already, that one is
        returned.

        Raises:
            QueueFull: the queue limit is reached.
            PixelsExceeded: the owner's pixel quota is exceeded.
            IdempotencyKeyReused: the idempotency key was used for another request.
            QueueUnavailable: Redis failed; unless it refused, the job may have been queued.
        """
        spec = JobSpec(
            id=job_id,
            image=image,
            options=options,
            time_limit=time_limit(image, options, model),
            name=name,
            owner=owner,
            cache_key=cache_key,
            webhook=webhook,
        )
        with translated_redis_errors(), self.client.pipeline(transaction=True) as pipe:
            if result is None:
                load = Load(owner=owner, pixels=spec.pixels)
                job = self.add(spec, pipe)
            else:
                load = Load(owner=owner, jobs=0)
                job = self.records.add_ended(spec, result, pipe)
            if idempotency is not None:
                idempotency.write(pipe)
            if cache_key is not None:
                pipe.set(_cached(cache_key), job_id, ex=self.records.record_ttl)
            mark = job_key(job_id) if idempotency is None else idempotency.redis_key
            taken = admit(self.client, pipe, load, self.bounds, unless=[mark])
            existing = None if taken or idempotency is None else idempotency.existing(self.client)
            return job if existing in (None, job_id) else self.records.get(str(existing))

    def find_cached(self, cache_key: str) -> Job | None:
        """The newest job with this cache key, in any state."""
        with translated_redis_errors():
            found = self.client.get(_cached(cache_key))
            if found is None:
                return None
            job_id = as_text(found)
            return self.records.get_many([job_id])[job_id]

    def forget(self, job: Job) -> None:
        """Remove a job from the cache."""
        if job.spec.cache_key is not None:
            with translated_redis_errors():
                self.client.eval(_FORGET, 1, _cached(job.spec.cache_key), job.id)

    def submit_blend(self, spec: JobSpec, *, instead: Job | None = None) -> Job:
        """Queue a derived job (`blend_spec`) unless it exists; it replaces the ended job `instead`.

        Raises:
            QueueFull: the queue limit is reached.
            PixelsExceeded: the owner's pixel quota is exceeded.
        """
        with translated_redis_errors(), self.client.pipeline(transaction=True) as pipe:
            job = self.add_blend(spec, pipe, instead=instead)
            load = Load(owner=spec.owner, pixels=spec.pixels)
            taken = admit(self.client, pipe, load, self.bounds, unless=[job_key(spec.id)])
            return job if taken else self.records.get(spec.id)

    def add_blend(
        self, spec: JobSpec, pipe: "redis.client.Pipeline", *, instead: Job | None = None
    ) -> Job:
        """Add a derived job to a transaction, and to the list of its source; it replaces the ended
        job `instead`, whose record is deleted at once.
        """
        if instead is not None:
            self.records.forget(instead)
            if instead.run is not None:  # else a run that was cancelled just now would go on
                pipe.hset(job_key(spec.id), "run", instead.run)
        pipe.sadd(derived_key(str(spec.blend_of)), spec.id)
        pipe.expire(derived_key(str(spec.blend_of)), self.records.record_ttl)
        return self.add(spec, pipe)

    def derived_from(self, source_id: str) -> list[str]:
        """The jobs derived from a job, or the batches derived from a batch."""
        with translated_redis_errors():
            found = self.client.smembers(derived_key(source_id))
        return sorted(map(as_text, found))

    def get(self, job_id: str) -> Job:
        """The current state of a job.

        Raises:
            JobNotFound: there is no such job.
        """
        with translated_redis_errors():
            return self.records.get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job | None]:
        """The current state of jobs; None for missing ones."""
        with translated_redis_errors():
            return self.records.get_many(job_ids)

    def page(self, owner: str, *, limit: int, cursor: str) -> JobPage:
        """Jobs of an owner, newest first.

        Raises:
            ValueError: the cursor is invalid.
        """
        with translated_redis_errors():
            return self.records.page(owner, limit=limit, cursor=cursor)

    def queue_positions(self) -> dict[str, QueuePosition]:
        """The position of every queued job, with the estimated time until it starts."""
        with translated_redis_errors():
            queues = [open_queue(name, self.client).job_ids for name in (SMALL, LARGE)]
            if not any(queues):
                return {}
            waiting, at_work = self.records.load()
            rate = speed(running(self.client))
        return queue_positions(queues, waiting=waiting, running=at_work, rate=rate)

    def queue_position(self, job: Job) -> QueuePosition | None:
        """The queue position of a job; None unless it is queued."""
        if job.state is not JobState.QUEUED:
            return None
        with translated_redis_errors():
            return queue_position(self.client, job.id, rate=speed(running(self.client)))

    def cancel(self, job_id: str) -> Job:
        """Cancel a pending job: first in its record, then in its queue.

        Raises:
            JobNotFound: there is no such job.
        """
        with translated_redis_errors():
            if self.records.cancel(job_id):
                self.withdraw(job_id)
                # Published again: the jobs behind it move up only now.
                self.client.publish(EVENTS, f"{job_id} {JobState.CANCELLED.value}")
            return self.records.get(job_id)

    def depths(self) -> dict[str, int]:
        """Number of queued jobs, by queue."""
        with translated_redis_errors():
            return {name: open_queue(name, self.client).count for name in (SMALL, LARGE)}

    def shortage(self) -> QueueFull | None:
        """Error while the queue is full; None otherwise."""
        with translated_redis_errors():
            return shortage(self.client, self.bounds)

    def oldest(self) -> dict[str, timedelta]:
        """Waiting time of the first job of each queue; an empty queue has none."""
        now, ages = datetime.now(UTC).timestamp(), {}
        with translated_redis_errors():
            for name in (SMALL, LARGE):
                head = self.client.lindex(open_queue(name, self.client).key, 0)
                since = None if head is None else self.client.zscore(ACTIVE, head)
                waited = 0.0 if since is None else now - float(since)
                ages[name] = timedelta(seconds=max(0.0, waited))
        return ages

    def add(self, spec: JobSpec, pipe: "redis.client.Pipeline") -> Job:
        """Add a record and its queue entry to a transaction."""
        small = spec.image.width * spec.image.height <= self.small_pixels
        # Derived jobs are fast for any picture: they never wait for a huge one.
        name = SMALL if small or spec.blend_of else LARGE
        open_queue(name, self.client).push_job_id(spec.id, pipeline=pipe)
        return self.records.add(spec, pipe, queue=name)

    def withdraw(self, task: str) -> None:
        """Remove a task from its queue; a process that runs it ends, as it has lost its lease."""
        for name in (SMALL, LARGE):
            open_queue(name, self.client).remove(task)


def time_limit(image: ImageInfo, options: UpscaleOptions, model: ModelInfo) -> timedelta:
    """Time limit of a job, from its pixels and the number of passes through the network."""
    seconds = image.width * image.height / min(model.pixels_per_second.values())
    if options.keep_branches:
        seconds *= _KEEPING_FACTOR
    if image.has_alpha and options.alpha is AlphaMode.MODEL:
        seconds *= 2  # alpha needs a pass of its own
    wanted = image.bits if options.depth is DepthMode.SAME else int(options.depth)
    if min(wanted, options.format.max_bits) == 16 and model.precision != "float32":
        seconds *= FLOAT32_FACTOR
    return TIME_LIMIT_BASE + timedelta(seconds=TIME_LIMIT_FACTOR * seconds)


def blend_spec(
    job_id: str,
    source: Job,
    options: UpscaleOptions,
    part: Part | None = None,
    *,
    name: str | None = None,
    map_key: str | None = None,
) -> JobSpec:
    """Spec of a job derived from a finished one. `name` replaces the file name of the source;
    `map_key` is the blob key of the map of `part`.
    """
    pixels = 0 if source.result is None else source.result.width * source.result.height
    return source.spec.derived(
        id=job_id,
        options=options,
        # codecs take less than a second per million pixels
        time_limit=TIME_LIMIT_BASE + timedelta(seconds=pixels / 1_000_000),
        blend_of=source.id,
        cache_key=None,
        part=part or Part(),
        map_key=map_key,
        schema_version=WITH_MAP if map_key or (part and part.dpi) else 1,
        name=name or source.spec.name,
    )


def _cached(cache_key: str) -> str:
    return f"gdsr:cache:{cache_key}"


def new_job_id() -> str:
    """128 random bits: knowing the id grants access to the job."""
    return secrets.token_hex(16)
