"""Jobs wait for a store that is unavailable or full, and nothing waits for its deletions."""

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from processes import running_valkey, wait_for
from records import image_info, model_info, options
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ImageCorrupt, StorageUnavailable
from workers.contract.images.formats import ResultFormat
from workers.contract.queue import connection
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.connection import connect
from workers.contract.queue.jobs import Job, JobResult, JobState
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.settings import WorkerSettings
from workers.host.reports import JobReport
from workers.tasks.upscale import CONTEXT, TaskContext, retry_while_unavailable, run


def finished(job: Job) -> JobResult:
    return JobResult(
        key=f"results/{job.id}.run.png", size=100, sha256="0" * 64, format=ResultFormat.PNG,
        width=1, height=1, model="lite", checkpoint="0" * 64, device="cpu", precision="float32",
        seconds={}, expires_at=datetime.now(UTC),
    )  # fmt: skip


def test_a_result_is_stored_once_the_store_is_back(
    blobs: FileBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    away = blobs.root.with_name("away")
    blobs.root.rename(away)
    with ThreadPoolExecutor(1) as pool:
        stored = pool.submit(
            retry_while_unavailable, lambda: blobs.write("results/a", [b"picture"])
        )
        wait_for(lambda: "waiting for the picture store" in caplog.text, what="a word in the log")
        away.rename(blobs.root)

        assert stored.result().size == 7
    assert blobs.read("results/a") == b"picture"


def test_the_time_limit_ends_the_wait_and_says_for_what(blobs: FileBlobStore) -> None:
    blobs.root.rename(blobs.root.with_name("away"))

    with pytest.raises(StorageUnavailable), UnixSignalDeathPenalty(1, JobTimeoutException):
        retry_while_unavailable(lambda: blobs.write("results/a", [b"picture"]))


@pytest.mark.timeout(300, method="thread")  # the time limit of tasks uses the signal
def test_a_time_limit_that_comes_while_redis_is_away_ends_the_run_and_not_the_job(
    tmp_path: Path,
    blobs: FileBlobStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection._RetryWhileUnavailable, "logged_at", float("-inf"))
    with running_valkey(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        patient = connect(server.url, timeout=timedelta(seconds=5), retries=1, retry_forever=True)
        bounds = QueueLimits(jobs=1, pixels=10**9)
        queue = JobQueue(patient, record_ttl=timedelta(hours=1), bounds=bounds, small_pixels=10**6)
        job_id = queue.submit(new_job_id(), image_info(), options(), model_info()).id

        def limit() -> None:
            wait_for(lambda: "Redis is unavailable" in caplog.text, what="a word in the log")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            server.start()

        def result(_: TaskContext, job: Job) -> JobResult:
            server.kill()
            pool.submit(limit)
            return finished(job)

        context = TaskContext(
            run="run", worker="worker", settings=WorkerSettings(), records=queue.records,
            blobs=blobs, engine_sockets=(),
        )  # fmt: skip
        token = CONTEXT.set(context)
        try:
            with pytest.raises(redis.RedisError), UnixSignalDeathPenalty(600, JobTimeoutException):
                run(job_id, result)
        finally:
            CONTEXT.reset(token)

        assert queue.get(job_id).state is JobState.RUNNING


@pytest.mark.parametrize("reason", ["", "image-corrupt"])
def test_a_job_is_reported_before_its_upload_is_deleted(
    client: redis.Redis, blobs: FileBlobStore, tmp_path: Path, reason: str
) -> None:
    """Its process may be killed from then on, as it has no lease any more."""
    bounds = QueueLimits(jobs=1, pixels=10**9)
    queue = JobQueue(client, record_ttl=timedelta(hours=1), bounds=bounds, small_pixels=10**6)
    job_id = queue.submit(new_job_id(), image_info(), options(), model_info()).id

    def result(_: TaskContext, job: Job) -> JobResult:
        if reason:
            raise ImageCorrupt("it has holes")
        return finished(job)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports:
        reports.bind(str(tmp_path / "reports"))
        reports.settimeout(0)
        heard: list[JobReport] = []

        class Watched(FileBlobStore):
            def delete(self, *keys: str) -> None:
                heard.append(JobReport.model_validate_json(reports.recv(65536)))
                super().delete(*keys)

        context = TaskContext(
            run="run", worker="worker", settings=WorkerSettings(), records=queue.records,
            blobs=Watched(blobs.root), engine_sockets=(), reports=tmp_path / "reports",
        )  # fmt: skip
        token = CONTEXT.set(context)
        try:
            run(job_id, result)
        finally:
            CONTEXT.reset(token)

    assert [(report.job, report.reason) for report in heard] == [(job_id, reason)]
