"""Metrics of a worker host: its programs, and the jobs that its job workers ended."""

from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from workers.contract.observability.metrics_server import counters, gauges
from workers.host.reports import JobReport
from workers.host.supervisor import DEATH_CAUSES, PROGRAM_STATES, Supervisor

_STAGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class HostTelemetry:
    """The metrics of one worker host, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.jobs = counter(
            "gdsr_worker_jobs",
            "Jobs that ended on this host; fault: cause of a failure, picture or service.",
            ["state", "output", "reason", "fault"],
        )
        self.job_seconds = histogram(
            "gdsr_job_seconds", "Time from upload to result.", ["output"], buckets=_JOB_SECONDS
        )
        self.stage_seconds = histogram(
            "gdsr_job_stage_seconds", "Time of a job per stage.", ["stage"], buckets=_STAGE_SECONDS
        )
        self.pixels = counter(
            "gdsr_job_pixels", "Input pixels of the network, and pixels of all results.",
            ["direction"],
        )  # fmt: skip
        self.bytes = counter(
            "gdsr_job_blob_bytes", "Bytes of processed uploads, and of stored results.",
            ["direction"],
        )  # fmt: skip
        ProcessCollector(registry=self.registry)

    def heard(self, report: JobReport) -> None:
        """Count an ended job; incremented last, so that a scrape never sees a job without its other
        metrics.
        """
        spent: dict[str, float] = {}
        for stage in report.stages:
            spent[stage.name] = spent.get(stage.name, 0) + stage.ended - stage.began
        for name, seconds in spent.items():
            self.stage_seconds.labels(name).observe(seconds)
        if not report.reason:
            self.job_seconds.labels(report.output).observe(report.ended - report.created)
        for counter, received, stored in (
            (self.pixels, report.pixels_in, report.pixels_out),
            (self.bytes, report.bytes_in, report.bytes_out),
        ):
            counter.labels("in").inc(received)
            counter.labels("out").inc(stored)
        state = "failed" if report.reason else "succeeded"
        self.jobs.labels(state, report.output, report.reason, report.fault).inc()


class ProgramCollector(Collector):
    """Reads the supervisor at each scrape."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        kinds, states = self.supervisor.kinds, self.supervisor.states()
        yield gauges(
            "gdsr_programs", "Programs of this host by state.", ["kind", "state"],
            (((kind, state), states[kind, state]) for kind in kinds for state in PROGRAM_STATES),
        )  # fmt: skip
        deaths = self.supervisor.deaths
        yield counters(
            "gdsr_program_restarts", "Exits of programs by cause.", ["kind", "cause"],
            (((kind, cause), deaths[kind, cause]) for kind in kinds for cause in DEATH_CAUSES),
        )  # fmt: skip
