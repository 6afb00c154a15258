"""Service and workers run on hosts whose clocks differ."""

from datetime import UTC, datetime, timedelta

import redis
from records import image_info, options

from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ImageCorrupt
from workers.contract.queue.jobs import Job, JobSpec, JobState
from workers.contract.queue.records import JobRecords
from workers.contract.settings import WorkerSettings
from workers.host.reports import JobReport
from workers.tasks.upscale import TaskContext, spent


def test_no_time_is_negative_if_the_clock_of_the_service_is_ahead(
    client: redis.Redis, blobs: FileBlobStore
) -> None:
    now = datetime.now(UTC)
    spec = JobSpec(
        id="a", created_at=now + timedelta(seconds=9), time_limit=timedelta(minutes=1),
        image=image_info(), options=options(),
    )  # fmt: skip
    job = Job(spec=spec, state=JobState.RUNNING, started_at=now)
    context = TaskContext(
        run="run", worker="worker", settings=WorkerSettings(), blobs=blobs, engine_sockets=(),
        records=JobRecords(client, record_ttl=timedelta(hours=1)),
    )  # fmt: skip

    report = JobReport.of(job, ImageCorrupt("it has holes"))

    assert spent(context, job) == {"queue": 0}
    assert report.ended >= report.created
    assert all(stage.ended >= stage.began for stage in report.stages)
