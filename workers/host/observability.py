"""Observability of a worker host: metrics and probes on a port, spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.contract.observability.metrics_server import MetricsServer
from workers.contract.observability.tracing import open_spans
from workers.contract.settings import WorkerSettings
from workers.host.metrics import HostTelemetry, ProgramCollector
from workers.host.reports import JobReport, listen
from workers.host.supervisor import Supervisor
from workers.host.tracing import export_job


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
            export_job(spans, report)

    threading.Thread(target=listen, args=(reports, heard), name="reports", daemon=True).start()
    try:
        yield
    finally:
        if spans is not None:
            spans.shutdown()
