"""Metrics of a worker host, its programs and the jobs that its job workers ended; and the spans of
these jobs.

Spans are created after the job has ended, so nothing waits for them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from workers.contract.observability.metrics_server import MetricsServer, counters, gauges
from workers.contract.observability.tracing import open_spans
from workers.contract.settings import WorkerSettings
from workers.host.reports import JobReport, listen
from workers.host.supervisor import DEATH_CAUSES, PROGRAM_STATES, Supervisor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NANOSECONDS = 1_000_000_000

_STAGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


@contextmanager
def observe(settings: WorkerSettings, supervisor: Supervisor, *, reports: Path) -> Iterator[None]:
    """Receive job reports and serve metrics inside the block.

    Raises:
        ConfigurationInvalid: the port is in use, or the libraries for spans are missing.
    """
    spans = open_spans(settings.otel_endpoint, process="gdsr-worker")
    telemetry = HostTelemetry()
    telemetry.registry.register(ProgramCollector(supervisor))
    if settings.worker_metrics_port is not None:
        MetricsServer(
            telemetry.registry,
            host=settings.metrics_host,
            port=settings.worker_metrics_port,
            ready=supervisor.ready,
        )

    def on_report(report: JobReport) -> None:
        telemetry.count_job(report)
        if spans is not None:
            _export(spans, report)

    threading.Thread(target=listen, args=(reports, on_report), name="reports", daemon=True).start()
    try:
        yield
    finally:
        if spans is not None:
            spans.shutdown()


class HostTelemetry:
    """The metrics of one worker host, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.jobs = counter(
            "gdsr_worker_jobs",
            "Jobs that ended on this host; fault: cause of a failure, picture or service.",
            ["state", "output", "reason", "fault"],
        )
        self.job_seconds = histogram(
            "gdsr_job_seconds", "Time from upload to result.", ["output"], buckets=_JOB_SECONDS
        )
        self.stage_seconds = histogram(
            "gdsr_job_stage_seconds", "Time of a job per stage.", ["stage"], buckets=_STAGE_SECONDS
        )
        self.pixels = counter(
            "gdsr_job_pixels", "Input pixels of the network, and pixels of all results.",
            ["direction"],
        )  # fmt: skip
        self.bytes = counter(
            "gdsr_job_blob_bytes", "Bytes of processed uploads, and of stored results.",
            ["direction"],
        )  # fmt: skip
        ProcessCollector(registry=self.registry)

    def count_job(self, report: JobReport) -> None:
        """Count an ended job, last of all, so that no scrape sees it without its other metrics."""
        spent: dict[str, float] = {}
        for stage in report.stages:
            spent[stage.name] = spent.get(stage.name, 0) + stage.ended - stage.began
        for name, seconds in spent.items():
            self.stage_seconds.labels(name).observe(seconds)
        if not report.reason:
            self.job_seconds.labels(report.output).observe(report.ended - report.created)
        for counter, received, stored in (
            (self.pixels, report.pixels_in, report.pixels_out),
            (self.bytes, report.bytes_in, report.bytes_out),
        ):
            counter.labels("in").inc(received)
            counter.labels("out").inc(stored)
        state = "failed" if report.reason else "succeeded"
        self.jobs.labels(state, report.output, report.reason, report.fault).inc()


class ProgramCollector(Collector):
    """Reads the supervisor at each scrape."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        kinds, states = self.supervisor.kinds, self.supervisor.states()
        yield gauges(
            "gdsr_programs", "Programs of this host by state.", ["kind", "state"],
            (((kind, state), states[kind, state]) for kind in kinds for state in PROGRAM_STATES),
        )  # fmt: skip
        deaths = self.supervisor.deaths
        yield counters(
            "gdsr_program_restarts", "Exits of programs by cause.", ["kind", "cause"],
            (((kind, cause), deaths[kind, cause]) for kind in kinds for cause in DEATH_CAUSES),
        )  # fmt: skip


def _export(provider: "TracerProvider", report: JobReport) -> None:
    """Export one span for the job, below the span of its request, and one for each stage."""
    from opentelemetry.trace import Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("gdsr")
    carrier = {"traceparent": report.traceparent} if report.traceparent else {}
    span = tracer.start_span(
        "job",
        context=TraceContextTextMapPropagator().extract(carrier),
        start_time=int(report.created * _NANOSECONDS),
        attributes={
            "gdsr.job": report.job,
            "gdsr.output": report.output,
            "gdsr.model": report.model,
        },
    )
    if report.reason:
        span.set_status(Status(StatusCode.ERROR, report.reason))
    for stage in report.stages:
        part = tracer.start_span(
            stage.name,
            context=set_span_in_context(span),
            start_time=int(stage.began * _NANOSECONDS),
        )
        part.end(int(stage.ended * _NANOSECONDS))
    span.end(int(report.ended * _NANOSECONDS))
