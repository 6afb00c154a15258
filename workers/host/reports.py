"""Job reports from job workers to their supervisor: one datagram on a unix socket per ended job.

Jobs run in processes that end with them, so counters and spans live in the supervisor. A report
that nobody receives is lost, without other effects.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from workers.contract.errors import GDSRError, ImageRejected
from workers.contract.queue.jobs import STOPS, Job, JobResult
from workers.contract.record import Record

_SEND_SECONDS = 1
_MAX_BYTES = 64 * 1024


class Stage(Record):
    """A time span of a job, in seconds since 1970."""

    name: str
    began: float
    ended: float


class JobReport(Record):
    """An ended job."""

    job: str
    traceparent: str | None
    output: str
    """psnr, fused, gan, `between` for other positions; `reblend` for derived results."""
    reason: str = ""
    """Slug of the error; empty on success."""
    fault: str = ""
    """Cause of the error: `picture` or `service`."""
    model: str
    created: float
    ended: float
    stages: tuple[Stage, ...] = ()
    pixels_in: int = 0
    pixels_out: int = 0
    bytes_in: int
    bytes_out: int = 0

    @classmethod
    def of(cls, job: Job, outcome: JobResult | GDSRError, stages: tuple[Stage, ...] = ()) -> Self:
        spec = job.spec
        named = {position: name for name, position in STOPS.items()}
        created = spec.created_at.timestamp()
        # the clock of the service may be ahead
        began = max(created, job.started_at.timestamp() if job.started_at else 0.0)
        report = cls(
            job=job.id,
            traceparent=spec.traceparent,
            output="reblend" if spec.blend_of else named.get(spec.options.trade_off, "between"),
            model=spec.options.model,
            created=created,
            ended=max(created, datetime.now(UTC).timestamp()),
            stages=(Stage(name="queue", began=created, ended=began), *stages),
            bytes_in=spec.image.size,
        )
        if isinstance(outcome, GDSRError):
            fault = "picture" if isinstance(outcome, ImageRejected) else "service"
            return report.model_copy(update={"reason": outcome.slug, "fault": fault})
        size = {"bytes_out": outcome.size, "pixels_out": outcome.width * outcome.height}
        if not spec.blend_of:
            size["pixels_in"] = spec.image.width * spec.image.height
        return report.model_copy(update=size)


def send(path: Path | None, report: JobReport) -> None:
    """Send a report to the supervisor, if one listens."""
    if path is None:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_SEND_SECONDS)
        sender.sendto(report.model_dump_json().encode(), str(path))


def listen(path: Path, on_report: Callable[[JobReport], None]) -> None:
    """Receive reports forever; runs in its own thread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        while True:
            with suppress(ValidationError):
                on_report(JobReport.model_validate_json(receiver.recv(_MAX_BYTES)))
