"""One JSON object a line on stderr, with the job id where there is one."""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime

#: The job that this process works on, put into each line.
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)


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
        if (job := job_id.get()) is not None:
            line["job"] = job
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(*, process: str, level: str) -> None:
    """Send all logging of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
