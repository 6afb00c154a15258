"""A job worker leaves a batch that it does not understand to a newer one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, wait_for

from workers.contract.queue.batches import batch_key, unpack_task
from workers.contract.queue.runs import SMALL, open_queue
from workers.host.parent_death import dying_with_parent


@pytest.mark.e2e
def test_a_batch_of_a_newer_release_is_reported_once_however_often_it_is_queued(
    valkey: ValkeyServer, client: redis.Redis, tmp_path: Path
) -> None:
    client.hset(batch_key("newer"), mapping={"spec": '{"id": "newer"}', "state": "queued"})
    queue = open_queue(SMALL, client)
    worker = subprocess.Popen(
        [sys.executable, "-m", "workers.jobs.job_worker", "--queue", SMALL, "--engine", "none"],
        env=os.environ
        | {"GDSR_REDIS_URL": valkey.url, "GDSR_BLOB_DIR": str(tmp_path), "GDSR_LOG_LEVEL": "info"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    )
    for _ in range(3):
        queue.push_job_id(unpack_task("newer"))
        wait_for(queue.is_empty, what="a worker that takes the batch")
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=100)

    assert log.count("batch-newer") == 1, log
    assert client.hget(batch_key("newer"), "state") == b"queued"
