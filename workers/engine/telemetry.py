"""Metrics of an engine: tiles, batches, memory, and its GPU."""

from collections.abc import Iterator
from functools import partial

import torch
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.contract.observability.metrics_server import gauges
from workers.engine.gpu import GPUCollector
from workers.engine.loading import LoadedEngine
from workers.engine.server import EngineServer

_BATCH_TILES = (1, 2, 4, 8, 16, 32)
_BATCH_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EngineTelemetry:
    """The metrics of one engine, in their own registry."""

    def __init__(self, loaded: LoadedEngine, *, device: torch.device) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._tiles = counter("gdsr_tiles", "Tiles computed.", ["model"])
        self._pixels = counter(
            "gdsr_tile_pixels", "Input pixels computed, including the context of tiles.", ["model"]
        )
        self._batch_tiles = histogram("gdsr_batch_tiles", "Tiles per batch.", buckets=_BATCH_TILES)
        self._batch_seconds = histogram(
            "gdsr_batch_seconds", "Device time of a batch.", buckets=_BATCH_SECONDS
        )
        for model in loaded.forwards:
            self._tiles.labels(model)
            self._pixels.labels(model)
        ProcessCollector(registry=self.registry)
        if device.type == "cuda":
            self.registry.register(MemoryCollector(device))
            uuid = torch.cuda.get_device_properties(device).uuid
            self.registry.register(GPUCollector(f"GPU-{uuid}"))

    def watch(self, server: EngineServer) -> None:
        """Read this server at each scrape."""
        self.registry.register(_EngineCollector(server))

    def computed(self, model: str, tiles: int, tile: int, seconds: float) -> None:
        """Count a batch of tiles of `tile` x `tile` pixels."""
        self._tiles.labels(model).inc(tiles)
        self._pixels.labels(model).inc(tiles * tile**2)
        self._batch_tiles.observe(tiles)
        self._batch_seconds.observe(seconds)


class _EngineCollector(Collector):
    def __init__(self, server: EngineServer) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        fallback = self.server.fallback
        yield CounterMetricFamily(
            "gdsr_oom_retries", "Out-of-memory errors that were retried.", value=fallback.retries
        )
        yield GaugeMetricFamily(
            "gdsr_waiting_tiles", "Queued tiles.", value=self.server.waiting_tiles
        )
        yield GaugeMetricFamily(
            "gdsr_largest_batch_tiles", "Current maximum of tiles per batch.", value=fallback.batch
        )
        yield CounterMetricFamily(
            "gdsr_model_loads",
            "Models loaded again after an eviction.",
            value=self.server.loaded.model_cache.loads,
        )
        loaded = self.server.loaded
        yield gauges(
            "gdsr_model_info", "1 for each checkpoint in use.",
            ["model", "sha256", "preset", "precision", "device"],
            (
                ((m.name, m.sha256[:12], m.preset, m.precision, loaded.device_name), 1)
                for m in loaded.models
            ),
        )  # fmt: skip


class MemoryCollector(Collector):
    """GPU memory of this process, as counted by torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def collect(self) -> Iterator[Metric]:
        sizes = {
            "allocated": torch.cuda.memory_allocated(self.device),
            "reserved": torch.cuda.memory_reserved(self.device),
            "peak": torch.cuda.max_memory_allocated(self.device),
        }
        yield gauges(
            "gdsr_cuda_memory_bytes", "GPU memory of this engine.", ["kind"],
            (([kind], size) for kind, size in sizes.items()),
        )  # fmt: skip
