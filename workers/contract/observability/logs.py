"""One JSON object a line on stderr, with the job, request and trace that it is about.

A line names no file, no key and nothing out of a picture.
"""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime

from workers.contract.observability.tracing import trace_id

#: The job that this process works on, put into each line.
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)
#: The HTTP request that it came with: what the answer's `X-Request-ID` says.
request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
#: The W3C trace context that it is part of.
traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "traceparent", default=None
)


class JSONFormatter(logging.Formatter):
    """A log record as one line of JSON."""

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
        # A process that works on many jobs at once says whose line it is with `extra`.
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
    # At debug, libraries tell of what is in a picture: Pillow names every tag with its value.
    logging.basicConfig(level=max(at, logging.INFO), handlers=[handler], force=True)
    for ours in ("__main__", "deploy", "model", "service", "workers"):
        logging.getLogger(ours).setLevel(at)
