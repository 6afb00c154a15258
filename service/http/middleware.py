"""The outermost middleware: security headers, metrics, spans, access log, unhandled exceptions.

Unhandled exceptions become a problem without details; the log has them under the same request id.
The log contains route templates and no query strings, so names chosen by clients do not appear in
it.
"""

import logging
import secrets
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.exception_handlers import CLIENT_CLOSED_REQUEST
from service.http.problems import error_response
from service.observability.metrics import ServiceTelemetry
from workers.contract.errors import GDSRError
from workers.contract.observability import logs
from workers.contract.observability.tracing import valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
#: Polled every few seconds by probes: logged at debug level only.
_QUIET = {"/livez", "/readyz", "/metrics"}
_METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, telemetry: ServiceTelemetry, spans: "TracerProvider | None"
    ) -> None:
        self.app = app
        self.telemetry = telemetry
        self.spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        logs.request_id.set(request_id)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        span = self._begin_span(scope, method)
        started = time.perf_counter()
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            if status is not None:
                raise  # the response has started: the server logs it and closes the connection
            logger.exception("request %s failed", request_id)
            unexpected = GDSRError("unexpected")
            response = error_response(unexpected, instance=scope["path"], request_id=request_id)
            await response(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            status = status or CLIENT_CLOSED_REQUEST
            seconds = time.perf_counter() - started
            self.telemetry.request_seconds.labels(method, route, str(status)).observe(seconds)
            if span is not None:
                _end_span(span, method, route, status)
            logger.log(
                logging.DEBUG if route in _QUIET else logging.INFO,
                "%s %s %d in %.0f ms, request %s from %s",
                method, route, status, 1000 * seconds, request_id,
                (scope.get("client") or ("?",))[0],
            )  # fmt: skip

    def _begin_span(self, scope: Scope, method: str) -> "Span | None":
        """Set the trace context for the request: that of a new span below the caller's, or the
        caller's if spans are off.
        """
        received = valid_traceparent(Headers(scope=scope).get("traceparent"))
        logs.traceparent.set(received)
        if self.spans is None or scope["path"] in _QUIET:
            return None
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator()
        span = self.spans.get_tracer("gdsr").start_span(
            method,
            context=context.extract({"traceparent": received} if received else {}),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        carrier: dict[str, str] = {}
        context.inject(carrier, set_span_in_context(span))
        logs.traceparent.set(carrier["traceparent"])
        return span


def _end_span(span: "Span", method: str, route: str, status: int) -> None:
    """Name the span after its route, as in the semantic conventions for HTTP, and end it."""
    from opentelemetry.trace import Status, StatusCode

    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
