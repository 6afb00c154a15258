"""One span per HTTP request if GDSR_OTEL_ENDPOINT is set."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


def begin_request(
    provider: "TracerProvider", *, method: str, traceparent: str | None
) -> tuple["Span", str]:
    """Start a span below the caller's; also returns the `traceparent` for the request's job."""
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator()
    span = provider.get_tracer("gdsr").start_span(
        method,
        context=context.extract({"traceparent": traceparent} if traceparent else {}),
        kind=SpanKind.SERVER,
        attributes={"http.request.method": method},
    )
    carrier: dict[str, str] = {}
    context.inject(carrier, set_span_in_context(span))
    return span, carrier["traceparent"]


def end_request(span: "Span", *, method: str, route: str, status: int) -> None:
    """Name the span after its route, as in the semantic conventions for HTTP, and end it."""
    from opentelemetry.trace import Status, StatusCode

    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
