"""Structured logs: one JSON object per line on stderr, with job, request and trace ids.

File names, keys and picture contents are never logged.
"""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime

from workers.contract.observability.tracing import trace_id

#: The current job, added to each line.
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)
#: The HTTP request of the job: the `X-Request-ID` of its response.
request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
#: The W3C trace context of the job.
traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "traceparent", default=None
)


class JSONFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        # A process that handles several jobs at once passes these fields with `extra`.
        about = {
            "job": getattr(record, "job", job_id.get()),
            "request": request_id.get(),
            "trace": trace_id(getattr(record, "traceparent", traceparent.get())),
        }
        line |= {name: value for name, value in about.items() if value}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(*, process: str, level: str) -> None:
    """Send all logging of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process))
    at = logging.getLevelNamesMapping()[level.upper()]
    # At debug level libraries log picture contents: Pillow logs every tag with its value.
    logging.basicConfig(level=max(at, logging.INFO), handlers=[handler], force=True)
    # These log faults of a client's file, which the client gets as an error.
    for parser in ("PIL", "python_multipart", "tifffile"):
        logging.getLogger(parser).setLevel(logging.CRITICAL)
    for ours in ("__main__", "deploy", "model", "service", "workers"):
        logging.getLogger(ours).setLevel(at)
