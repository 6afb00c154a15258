"""HTTP server for metrics and probes on a separate port, in a thread of the process it reports
on; and metrics that are read at each scrape.
"""

import http.server
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from workers.contract.errors import ConfigurationInvalid

#: The labels and the value of each sample.
Values = Iterable[tuple[Sequence[str], float]]


def counters(name: str, about: str, labels: Sequence[str], values: Values) -> Metric:
    """A counter with a value for each set of labels."""
    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def gauges(name: str, about: str, labels: Sequence[str], values: Values) -> Metric:
    """A gauge with a value for each set of labels."""
    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Values) -> Metric:
    for labels, value in values:
        family.add_metric(labels, value)
    return family


class MetricsServer(http.server.ThreadingHTTPServer):
    """Serves `/metrics`, `/livez` and `/readyz` until the process ends."""

    daemon_threads = True

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start the server.

        Raises:
            ConfigurationInvalid: the port is in use, or the address is not local.
        """
        self.registry, self.ready = registry, ready
        try:
            super().__init__((host, port), _Handler)
        except OSError as failure:
            raise ConfigurationInvalid(
                f"cannot listen for metrics on {host} port {port}: {failure.strerror}; "
                "set GDSR_METRICS_HOST, and GDSR_METRICS_PORT or GDSR_WORKER_METRICS_PORT"
            ) from None
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: MetricsServer
    server_version, sys_version = "GDSR", ""
    timeout = 10

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(self.server.registry))
            case "/livez":
                self._answer(HTTPStatus.OK, b"ok\n")
            case "/readyz" if self.server.ready():
                self._answer(HTTPStatus.OK, b"ok\n")
            case "/readyz":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"not found\n")

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header(
            "Content-Type", CONTENT_TYPE_LATEST if status is HTTPStatus.OK else "text/plain"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        logging.getLogger(__name__).debug(format, *args)
