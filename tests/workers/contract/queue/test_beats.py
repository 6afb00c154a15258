"""A job worker renews the lease of a running job, and ends the child of a cancelled one."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import redis
from processes import ValkeyServer, children, wait_for
from records import image_info, model_info, options

from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.runs import LEASES, SMALL
from workers.host.parent_death import dying_with_parent


def test_a_worker_beats_while_its_child_works_and_ends_it_when_it_is_cancelled(
    valkey: ValkeyServer, client: redis.Redis, tmp_path: Path
) -> None:
    bounds = QueueLimits(jobs=1, pixels=10**9)
    service = JobQueue(client, record_ttl=timedelta(minutes=5), bounds=bounds, small_pixels=10**6)
    (tmp_path / "inputs").mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "inputs" / "a")  # opening it blocks until there is a writer
    job_id = service.submit(new_job_id(), image_info(), options(), model_info()).id
    worker = subprocess.Popen(
        [sys.executable, "-m", "workers.jobs.job_worker", "--queue", SMALL, "--engine", "none"],
        env={**os.environ, "GDSR_REDIS_URL": valkey.url, "GDSR_BLOB_DIR": str(tmp_path)},
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    )
    try:
        first = wait_for(lambda: client.zscore(LEASES, job_id))
        wait_for(lambda: client.zscore(LEASES, job_id) > first)
        (child,) = children(worker.pid)  # before its successor may be there
        service.cancel(job_id)
        wait_for(lambda: child not in children(worker.pid), what="the end of the child")
        worker.terminate()
        assert worker.wait(timeout=100) == 0
    finally:
        worker.kill()
        worker.wait()
