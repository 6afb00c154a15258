"""Observability of a worker host: metrics and probes on a port, and the spans of jobs.

Spans are created after the job has ended, so nothing waits for them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workers.contract.observability.metrics_server import MetricsServer
from workers.contract.observability.tracing import open_spans
from workers.contract.settings import WorkerSettings
from workers.host.metrics import HostTelemetry, ProgramCollector
from workers.host.reports import JobReport, listen
from workers.host.supervisor import Supervisor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NANOSECONDS = 1_000_000_000


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

    def heard(report: JobReport) -> None:
        telemetry.heard(report)
        if spans is not None:
            _export(spans, report)

    threading.Thread(target=listen, args=(reports, heard), name="reports", daemon=True).start()
    try:
        yield
    finally:
        if spans is not None:
            spans.shutdown()


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
