"""What Prometheus is told: about requests as they end, about jobs and engines when it asks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from workers.contract.connection import redis_down_is_queue_unavailable
from workers.contract.engines import EngineInfo, running
from workers.contract.errors import GDSRError
from workers.contract.jobs import FINAL_STATES
from workers.contract.queue import JobQueue
from workers.contract.records import ACTIVE

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = tuple(4.0**power * 1024 for power in range(1, 10))  # 4 KiB to 256 MiB

logger = logging.getLogger(__name__)


class ServiceTelemetry:
    """The measurements of one service, in a registry of its own."""

    def __init__(self, queue: JobQueue) -> None:
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "gdsr_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rejected = Counter(
            "gdsr_rejects", "Uploads that did not become a job.", ["reason"], registry=self.registry
        )
        self.upload_bytes = Histogram(
            "gdsr_upload_bytes",
            "Size of the pictures received.",
            buckets=_BYTES,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(QueueCollector(queue))

    @contextmanager
    def rejects_counted(self) -> Iterator[None]:
        """Count an upload that ends in an error by the error's slug."""
        try:
            yield
        except GDSRError as error:
            self.rejected.labels(error.slug).inc()
            raise


class QueueCollector(Collector):
    """Reads Redis at each scrape; one that does not answer is a measurement too."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue

    def collect(self) -> Iterator[Metric]:
        try:
            with redis_down_is_queue_unavailable():
                families = [*_jobs(self.queue), *_engines(running(self.queue.client))]
        except (GDSRError, ValidationError) as failure:
            logger.warning("a scrape cannot read the queue: %s", failure)
            families = []
        up = 1 if families else 0
        yield GaugeMetricFamily("gdsr_redis_up", "Whether Redis answered this scrape.", value=up)
        yield from families


def _jobs(queue: JobQueue) -> Iterator[Metric]:
    ended = queue.records.ended()
    totals = CounterMetricFamily("gdsr_jobs", "Jobs that ended.", labels=["state"])
    for state in sorted(FINAL_STATES):
        totals.add_metric([state], ended.get(state, 0))
    yield totals
    waiting = GaugeMetricFamily("gdsr_queue_jobs", "Jobs that wait.", labels=["queue"])
    for name, depth in queue.depths().items():
        waiting.add_metric([name], depth)
    yield waiting
    client: redis.Redis = queue.client
    active = GaugeMetricFamily("gdsr_jobs_active", "Jobs that wait or run.")
    active.add_metric([], float(client.zcard(ACTIVE)))
    yield active


def _engines(engines: list[EngineInfo]) -> Iterator[Metric]:
    yield GaugeMetricFamily("gdsr_engines", "Engines that are alive.", value=len(engines))
    place = ["host", "device"]
    tiles = CounterMetricFamily("gdsr_engine_tiles", "Tiles done since it started.", labels=place)
    retries = CounterMetricFamily(
        "gdsr_engine_memory_retries", "Times it ran out of memory and went on.", labels=place
    )
    speed = GaugeMetricFamily(
        "gdsr_engine_pixels_per_second",
        "Input pixels a second, measured at warm-up.",
        labels=[*place, "model", "output"],
    )
    # One device may run an engine at a time; a second is one that is being replaced.
    for engine in {(engine.host, engine.device): engine for engine in engines}.values():
        where = [engine.host, engine.device]
        tiles.add_metric(where, engine.tiles)
        retries.add_metric(where, engine.memory_retries)
        for model in engine.models:
            for output, rate in model.pixels_per_second.items():
                speed.add_metric([*where, model.name, output], rate)
    yield from (tiles, retries, speed)
