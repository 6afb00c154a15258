"""A job worker's beats, with which it keeps its job."""

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, wait_for
from records import image_info, model_info, options
from rq.serializers import JSONSerializer

from workers.contract.admission import Bounds
from workers.contract.queue import JobQueue, new_job_id
from workers.contract.safe_rq import SMALL, open_queue
from workers.contract.settings import WorkerSettings
from workers.job_worker import BEAT, LEASE, JobWorker


@pytest.fixture
def no_alarm() -> Iterator[None]:
    """As when another thread gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    yield
    handler = signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one that waits would end all tests
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.usefixtures("no_alarm")
def test_a_worker_beats_although_no_alarm_wakes_it(
    valkey: ValkeyServer, client: redis.Redis, tmp_path: Path
) -> None:
    bounds = Bounds(jobs=1, pixels=10**9)
    service = JobQueue(client, record_ttl=timedelta(minutes=5), bounds=bounds, small_pixels=10**6)
    service.submit(new_job_id(), image_info(), options(), model_info())
    settings = WorkerSettings(redis_url=valkey.url, blob_dir=tmp_path)
    worker = JobWorker(SMALL, settings=settings, engine_sockets=())
    worker.register_birth()
    queue = open_queue(SMALL, client)
    found = queue.dequeue_any([queue], None, connection=client, serializer=JSONSerializer)
    job, _ = found
    run = worker.prepare_execution(job)
    registry = queue.started_job_registry.key
    first = client.zscore(registry, run.composite_key)
    with subprocess.Popen(["sleep", "600"]) as child, ThreadPoolExecutor(1) as pool:
        worker._horse_pid = child.pid

        def later() -> float:
            """The end of the lease once it has been put off; the child ends then."""
            try:
                return wait_for(
                    lambda: (end := client.zscore(registry, run.composite_key)) > first and end
                )
            finally:
                child.kill()

        end = pool.submit(later)
        worker.monitor_work_horse(job, queue, run)

    assert first >= run.created_at.timestamp() + LEASE - 1
    assert end.result() >= first + BEAT - 1
