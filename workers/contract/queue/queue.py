"""The queue between service and workers, the service's side: submit, look, cancel."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import redis
from rq.command import send_command

from workers.contract.images.options import AlphaMode, DepthMode
from workers.contract.observability import logs
from workers.contract.queue.admission import Load, QueueLimits, admit
from workers.contract.queue.connection import redis_down_is_queue_unavailable
from workers.contract.queue.engines import ModelInfo, running
from workers.contract.queue.estimates import (
    QueuePosition,
    look_up,
    queue_position,
    queue_positions,
    speed,
)
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import (
    ImageInfo,
    Job,
    JobResult,
    JobSpec,
    JobState,
    Part,
    UpscaleOptions,
)
from workers.contract.queue.records import JobPage, JobRecords, job_key
from workers.contract.queue.rq_queue import LARGE, SMALL, open_queue
from workers.contract.queue.runs import ACTIVE, EVENTS, RUNNING, WAITING, record_key

#: A job may take this long plus this many times the time the engine alone would need.
TIME_LIMIT_BASE = timedelta(seconds=120)
TIME_LIMIT_FACTOR = 30
#: How much longer four results of a tile may take than one, with the encoding of all.
_KEEPING_FACTOR = 2
#: How much slower than measured float32 may be, in which 16 bits are computed.
_FLOAT32_FACTOR = 8


_FORGET = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class JobQueue:
    """The service's side: submit, look, cancel."""

    def __init__(
        self, client: redis.Redis, *, record_ttl: timedelta, bounds: QueueLimits, small_pixels: int
    ) -> None:
        self.client = client
        self.records = JobRecords(client, record_ttl=record_ttl)
        self.bounds = bounds
        self.small_pixels = small_pixels

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
        """Queue a stored picture. Record, queue entry and claim are written as one or not at all.

        With a result, which must be stored as well, the job is born succeeded. Under the cache key
        equal uploads find this job from now on. The job is another one if that has the claim.

        Raises:
            QueueFull: as many jobs or pixels wait as may.
            PixelsExceeded: the owner has sent enough for today.
            IdempotencyKeyReused: the idempotency key came with something else meanwhile.
            QueueUnavailable: Redis did not take it, or, unless it says that it refused, maybe did.
        """
        spec = JobSpec(
            id=job_id,
            created_at=datetime.now(UTC),
            image=image,
            options=options,
            time_limit=time_limit(image, options, model),
            name=name,
            owner=owner,
            cache_key=cache_key,
            webhook=webhook,
            request_id=logs.request_id.get(),
            traceparent=logs.traceparent.get(),
        )
        with redis_down_is_queue_unavailable(), self.client.pipeline(transaction=True) as pipe:
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
            taken = admit(self.client, pipe, load, self.bounds, unless=mark)
            existing = None if taken or idempotency is None else idempotency.existing(self.client)
            return job if existing in (None, job_id) else self.records.get(str(existing))

    def made_before(self, cache_key: str) -> Job | None:
        """The newest job under this key; it may be in any state.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            found = self.client.get(_cached(cache_key))
            if found is None:
                return None
            job_id = found.decode() if isinstance(found, bytes) else found
            return self.records.get_many([job_id])[job_id]

    def forget(self, job: Job) -> None:
        """Let no equal upload find this job.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if job.spec.cache_key is not None:
            with redis_down_is_queue_unavailable():
                self.client.eval(_FORGET, 1, _cached(job.spec.cache_key), job.id)

    def submit_blend(
        self,
        job_id: str,
        source: Job,
        options: UpscaleOptions,
        part: Part | None = None,
        *,
        instead: Job | None = None,
    ) -> Job:
        """Queue what is made of a result or of the branches kept with it, unless somebody did;
        `instead` of an earlier one that left nothing.

        Raises:
            QueueFull: as many jobs wait as may.
            QueueUnavailable: Redis did not take it.
        """
        spec = source.spec.model_copy(
            update={
                "id": job_id,
                "created_at": datetime.now(UTC),
                "options": options,
                "time_limit": _blend_time_limit(source),
                "blend_of": source.id,
                "cache_key": None,
                "part": part or Part(),
                "webhook": None,
                "batch": None,
                "request_id": logs.request_id.get(),
                "traceparent": logs.traceparent.get(),
            }
        )
        with redis_down_is_queue_unavailable(), self.client.pipeline(transaction=True) as pipe:
            if instead is not None:
                self.records.forget(instead)
            job = self.add(spec, pipe)
            pipe.sadd(_blends(source.id), job_id)
            pipe.expire(_blends(source.id), self.records.record_ttl)
            load = Load(owner=spec.owner, pixels=spec.pixels)
            taken = admit(self.client, pipe, load, self.bounds, unless=job_key(job_id))
            return job if taken else self.records.get(job_id)

    def blends_of(self, job_id: str) -> list[str]:
        """Jobs that made other positions of the slider of this one.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            found = self.client.smembers(_blends(job_id))
        return sorted(part.decode() if isinstance(part, bytes) else part for part in found)

    def get(self, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            JobNotFound: there is no such job.
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job | None]:
        """Jobs as they are now; None for those that are gone.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.get_many(job_ids)

    def page(self, owner: str, *, limit: int, cursor: str) -> JobPage:
        """Jobs of an owner, newest first.

        Raises:
            ValueError: that is no cursor.
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return self.records.page(owner, limit=limit, cursor=cursor)

    def queue_positions(self) -> dict[str, QueuePosition]:
        """Where each job that waits stands, and about when it will start.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            queues = [open_queue(name, self.client).job_ids for name in (SMALL, LARGE)]
            if not any(queues):
                return {}
            waiting, at_work = self.records.load()
            rate = speed(running(self.client))
        return queue_positions(queues, waiting=waiting, running=at_work, rate=rate)

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Where a job stands; None when it does not wait.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if job.state is not JobState.QUEUED:
            return None
        with redis_down_is_queue_unavailable():
            queues = [open_queue(name, self.client).key for name in (SMALL, LARGE)]
            found = look_up(self.client, job.id, queues=queues, waiting=WAITING, running=RUNNING)
            return (
                None if found is None else queue_position(*found, rate=speed(running(self.client)))
            )

    def cancel(self, job_id: str) -> Job:
        """End a job that has not ended: at once in its record, then where it waits or runs.

        Raises:
            JobNotFound: there is no such job.
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            if self.records.cancel(job_id):
                self.withdraw(job_id)
                # Once more: those behind it move up only now.
                self.client.publish(EVENTS, f"{job_id} {JobState.CANCELLED.value}")
            return self.records.get(job_id)

    def depths(self) -> dict[str, int]:
        """Jobs that wait, by queue.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            return {name: open_queue(name, self.client).count for name in (SMALL, LARGE)}

    def oldest(self) -> dict[str, timedelta]:
        """How long the job at the head of each queue has waited; no time for an empty one.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        with redis_down_is_queue_unavailable():
            queues = {name: open_queue(name, self.client).key for name in (SMALL, LARGE)}
            heads = {name: self.client.lindex(key, 0) for name, key in queues.items()}
            created = {
                name: None if head is None else self.client.zscore(ACTIVE, head)
                for name, head in heads.items()
            }
        now = datetime.now(UTC).timestamp()
        return {
            name: timedelta(seconds=max(0.0, now - (now if since is None else float(since))))
            for name, since in created.items()
        }

    def add(self, spec: JobSpec, pipe: "redis.client.Pipeline") -> Job:
        """Write a record and queue its job, as part of a transaction."""
        small = spec.image.width * spec.image.height <= self.small_pixels
        # Re-blends are quick, whatever the picture: they never wait for a huge one.
        name = SMALL if small or spec.blend_of else LARGE
        open_queue(name, self.client).push_job_id(spec.id, pipeline=pipe)
        return self.records.add(spec, pipe, queue=name)

    def withdraw(self, task: str) -> None:
        """Take a task out of its queue, and end the process that runs it."""
        for name in (SMALL, LARGE):
            open_queue(name, self.client).remove(task)
        worker = self.client.hget(record_key(task), "worker")
        if worker is not None:
            name = worker.decode() if isinstance(worker, bytes) else worker
            send_command(self.client, name, "stop-job", job_id=task)


def time_limit(image: ImageInfo, options: UpscaleOptions, model: ModelInfo) -> timedelta:
    """How long a job may run: by its pixels, as often as the network sees them."""
    seconds = image.width * image.height / min(model.pixels_per_second.values())
    if options.keep_branches:
        seconds *= _KEEPING_FACTOR
    if image.has_alpha and options.alpha is AlphaMode.MODEL:
        seconds *= 2  # once more, as a picture of its own
    wanted = image.bits if options.depth is DepthMode.SAME else int(options.depth)
    if min(wanted, options.format.max_bits) == 16 and model.precision != "float32":
        seconds *= _FLOAT32_FACTOR
    return TIME_LIMIT_BASE + timedelta(seconds=TIME_LIMIT_FACTOR * seconds)


def _blend_time_limit(source: Job) -> timedelta:
    """Nothing but a codec is slow, and no codec takes a second for a million pixels."""
    pixels = 0 if source.result is None else source.result.width * source.result.height
    return TIME_LIMIT_BASE + timedelta(seconds=pixels / 1_000_000)


def _cached(cache_key: str) -> str:
    return f"gdsr:cache:{cache_key}"


def _blends(job_id: str) -> str:
    return f"gdsr:blends:{job_id}"


def new_job_id() -> str:
    """128 random bits: knowing an id is what lets a client see a job."""
    return secrets.token_hex(16)
