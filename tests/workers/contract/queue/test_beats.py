"""A job worker's beats, with which it keeps its job."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import redis
from processes import ValkeyServer, wait_for
from records import image_info, model_info, options

from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.jobs import JobState
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.rq_queue import SMALL, Delivery, open_queue
from workers.contract.queue.runs import LEASES
from workers.contract.settings import WorkerSettings
from workers.jobs.job_worker import BEAT, JobWorker


def test_a_worker_beats_as_long_as_its_child_works(
    valkey: ValkeyServer, client: redis.Redis, tmp_path: Path
) -> None:
    bounds = QueueLimits(jobs=1, pixels=10**9)
    service = JobQueue(client, record_ttl=timedelta(minutes=5), bounds=bounds, small_pixels=10**6)
    settings = WorkerSettings(redis_url=valkey.url, blob_dir=tmp_path)
    worker = JobWorker(SMALL, settings=settings, engine_sockets=())
    os.mkfifo(tmp_path / "inputs" / "a")  # whose reader waits for a writer
    job_id = service.submit(new_job_id(), image_info(), options(), model_info()).id

    def later() -> tuple[float, float]:
        """The first end of the lease, and the next one; the child is killed then."""
        first = wait_for(lambda: client.zscore(LEASES, job_id))
        try:
            return first, wait_for(
                lambda: (end := client.zscore(LEASES, job_id)) and end > first and end
            )
        finally:
            os.kill(worker._working, signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(later)
        worker.execute_job(Delivery(job_id, connection=client), open_queue(SMALL, client))

    first, second = ends.result()
    assert second >= first + BEAT - 1
    assert service.get(job_id).state is JobState.QUEUED
