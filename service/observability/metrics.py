"""Prometheus metrics: request counters, and collectors that read jobs and engines."""

import logging
from collections import Counter as Counting
from collections.abc import Iterator
from functools import partial

import redis
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from workers.contract.blobs.base import BlobStore
from workers.contract.blobs.usage import freed_bytes, last_usage
from workers.contract.errors import GDSRError
from workers.contract.observability.metrics_server import counters, gauges
from workers.contract.queue import webhook_outbox
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.engines import EngineInfo, running
from workers.contract.queue.jobs import FINAL_STATES
from workers.contract.queue.queue import JobQueue
from workers.contract.queue.runs import ACTIVE, count_workers

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = tuple(4.0**power * 1024 for power in range(1, 10))  # 4 KiB to 256 MiB

logger = logging.getLogger(__name__)


class ServiceTelemetry:
    """The metrics of one service, in their own registry."""

    def __init__(self, queue: JobQueue, blobs: BlobStore) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.request_seconds = histogram(
            "gdsr_http_request_seconds",
            "Time from the head of a request to the end of its response.",
            ["method", "route", "status"], buckets=_SECONDS,
        )  # fmt: skip
        self.rejected = counter("gdsr_rejects", "Rejected uploads.", ["reason"])
        self.cache_hits = counter("gdsr_cache_hits", "Uploads answered from the result cache.")
        self.upload_bytes = histogram(
            "gdsr_upload_bytes", "Size of received pictures.", buckets=_BYTES
        )
        self.webhooks = counter(
            "gdsr_webhooks",
            "Webhook delivery attempts: delivered, retried later, or failed for good.",
            ["outcome"],
        )
        for outcome in ("delivered", "retried", "failed"):
            self.webhooks.labels(outcome)
        ProcessCollector(registry=self.registry)
        self.registry.register(QueueCollector(queue, blobs))


class QueueCollector(Collector):
    """Reads Redis and the blob store's capacity at each scrape, and whether Redis answers."""

    def __init__(self, queue: JobQueue, blobs: BlobStore) -> None:
        self.queue, self.blobs = queue, blobs

    def collect(self) -> Iterator[Metric]:
        try:
            with translated_redis_errors():
                families = [*_queue(self.queue), *_engines(running(self.queue.client))]
        except (GDSRError, ValidationError) as failure:
            logger.warning("cannot read the queue for a scrape: %s", failure)
            families = []
        up = 1 if families else 0
        yield GaugeMetricFamily("gdsr_redis_up", "1 if Redis answered at this scrape.", value=up)
        yield from families
        room = None
        try:
            room = self.blobs.room()
        except GDSRError as failure:
            logger.warning("cannot read the blob store for a scrape: %s", failure)
        if room is not None:
            yield from _values(
                ("gdsr_blob_free_bytes", "Free bytes of the blob disk.", room.free),
                ("gdsr_blob_limit_bytes", "Total bytes of the blob disk.", room.total),
            )


def _values(*gauges: tuple[str, str, float]) -> Iterator[Metric]:
    """A gauge for each name, description and value."""
    return (GaugeMetricFamily(name, about, value=value) for name, about, value in gauges)


def _queue(queue: JobQueue) -> Iterator[Metric]:
    client: redis.Redis = queue.client
    ended = queue.records.ended()
    states = (([state], ended.get(state, 0)) for state in sorted(FINAL_STATES))
    yield counters("gdsr_jobs", "Jobs that ended.", ["state"], states)
    depths = (([name], depth) for name, depth in queue.depths().items())
    yield gauges("gdsr_queue_jobs", "Queued jobs.", ["queue"], depths)
    ages = (([name], age.total_seconds()) for name, age in queue.oldest().items())
    yield gauges("gdsr_queue_oldest_seconds", "Waiting time of the next job.", ["queue"], ages)
    workers = (([state], count) for state, count in count_workers(client).items())
    yield gauges("gdsr_job_workers", "Job workers by state.", ["state"], workers)
    memory = client.info("memory")
    yield from _values(
        ("gdsr_webhooks_waiting", "Ended jobs whose webhook is pending.",
         webhook_outbox.waiting(client)),
        ("gdsr_jobs_active", "Queued and running jobs.", client.zcard(ACTIVE)),
        ("gdsr_redis_memory_bytes", "Memory used by Redis.", memory["used_memory"]),
        ("gdsr_redis_memory_limit_bytes", "Redis's `maxmemory`; 0: unlimited.",
         memory["maxmemory"]),
    )  # fmt: skip
    usage = last_usage(client)
    if usage is not None:
        yield from _values(
            ("gdsr_blobs", "Stored pictures.", usage.blobs),
            ("gdsr_blob_bytes", "Bytes of stored pictures.", usage.size),
            ("gdsr_blob_quota_bytes", "Storage quota in bytes; 0: unlimited.", usage.quota or 0),
        )
    freed = (([reason], size) for reason, size in freed_bytes(client).items())
    yield counters(
        "gdsr_blob_freed_bytes", "Bytes removed by the janitor, by reason.", ["reason"], freed
    )


def _engines(engines: list[EngineInfo]) -> Iterator[Metric]:
    yield GaugeMetricFamily("gdsr_engines", "Running engines.", value=len(engines))
    place = ["host", "device"]
    models = Counting(model.name for engine in engines for model in engine.models)
    having = (([name], count) for name, count in sorted(models.items()))
    yield gauges("gdsr_models", "Running engines that serve a model.", ["model"], having)
    # A device may have two engines for a moment, while one replaces the other.
    shown = {(engine.host, engine.device): engine for engine in engines}
    yield counters(
        "gdsr_engine_tiles", "Tiles computed since the engine started.", place,
        ((at, engine.tiles) for at, engine in shown.items()),
    )  # fmt: skip
    yield counters(
        "gdsr_engine_memory_retries", "Out-of-memory errors that were retried.", place,
        ((at, engine.memory_retries) for at, engine in shown.items()),
    )  # fmt: skip
    yield gauges(
        "gdsr_engine_pixels_per_second", "Input pixels per second, measured at warm-up.",
        [*place, "model", "output"],
        (
            ((*at, model.name, output), rate)
            for at, engine in shown.items()
            for model in engine.models
            for output, rate in model.pixels_per_second.items()
        ),
    )  # fmt: skip
