"""The spans of a job, created by the supervisor after the job has ended, so nothing waits for
them.
"""

from typing import TYPE_CHECKING

from workers.host.reports import JobReport

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NANOSECONDS = 1_000_000_000


def export_job(provider: "TracerProvider", report: JobReport) -> None:
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
