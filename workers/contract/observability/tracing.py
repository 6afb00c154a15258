"""Trace context (W3C Trace Context) and, if configured, spans for an OpenTelemetry collector.

The context is always propagated: from the request through the job record to the logs of job worker
and engine. Spans are created only with GDSR_OTEL_ENDPOINT, by the service and the supervisor of a
worker host; no request or job waits for the collector.
"""

import re
from typing import TYPE_CHECKING

from workers.contract.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
#: Timeout of an export, in seconds.
_EXPORT_SECONDS = 5


def valid_traceparent(text: str | None) -> str | None:
    """The value of a valid `traceparent` header; invalid ones are ignored, as the standard says."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a `traceparent`: 32 hexadecimal digits."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def open_spans(endpoint: str | None, *, process: str) -> "TracerProvider | None":
    """Create the span exporter of this process; None without an endpoint.

    Raises:
        ConfigurationInvalid: the optional libraries are not installed.
    """
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationInvalid(
            "GDSR_OTEL_ENDPOINT: spans need more libraries: pip install '.[otel]' in the checkout"
        ) from None
    exporter = OTLPSpanExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS
    )
    provider = TracerProvider(resource=Resource.create({"service.name": process}))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return provider
