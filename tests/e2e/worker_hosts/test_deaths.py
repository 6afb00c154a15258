"""A job ends correctly whichever real process gets SIGKILL."""

import json
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
from hosts import Site, WorkerHost, noise
from processes import ValkeyServer, command_line, suspend, suspended, wait_for

from workers.contract.queue.jobs import JobState
from workers.contract.queue.records import job_key
from workers.contract.queue.runs import LEASES
from workers.jobs.job_worker import OVERTIME

#: These tests wait for leases of 15 s to end.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

#: Large enough that its tiles take seconds with the tiny network.
HUGE = noise(500, 500)
#: Not finished by the tests that use it.
ENDLESS = noise(1400, 1400)
#: Seconds until a test gives up; a job may take several times as long on a busy machine.
PATIENCE = 240
#: Lock of the worker that looks for lost jobs; it expires before the next look.
REAPER = "gdsr:reaper"


def ended_or_beyond(site: Site, job_id: str, tiles: int) -> bool:
    """True if the job has ended or has finished more than so many tiles."""
    job = site.job(job_id)
    return job.ended or job.tiles_done > tiles


def successor(host: WorkerHost, dead: int) -> int | None:
    """Return the pid of the large-picture job worker that replaces the dead one."""
    found = (pid for pid in host.job_workers if "gdsr-large" in command_line(pid))
    return next((pid for pid in found if pid != dead), None)


def lease(site: Site) -> float:
    """Seconds until the only running large job counts as lost."""
    _, end = site.client.zrange(LEASES, 0, 0, withscores=True)[0]
    return float(end) - time.time()


def test_a_job_survives_its_child_and_its_engine_being_killed(site: Site) -> None:
    with site.worker_host() as host:
        undisturbed = site.result(site.ended(site.submit(HUGE), seconds=PATIENCE))

        job_id = site.submit(HUGE)
        wait_for(lambda: site.in_the_middle(job_id))
        _, child = wait_for(lambda: site.at_work(job_id))
        os.kill(child, signal.SIGKILL)
        after_child = site.ended(job_id, seconds=PATIENCE)

        job_id = site.submit(HUGE)
        wait_for(lambda: site.in_the_middle(job_id))
        os.kill(host.engine, signal.SIGKILL)
        after_engine = site.ended(job_id, seconds=PATIENCE)

        np.testing.assert_array_equal(site.result(after_child), undisturbed)
        np.testing.assert_array_equal(site.result(after_engine), undisturbed)
        wait_for(lambda: not list((site.blobs.root / "inputs").iterdir()))
        assert "its run crashed" in host.stop()


def test_a_picture_that_kills_its_process_twice_fails_as_crashed(site: Site) -> None:
    with site.worker_host():
        job_id = site.submit(ENDLESS)
        first = wait_for(lambda: site.in_the_middle(job_id)).run
        os.kill(wait_for(lambda: site.at_work(job_id))[1], signal.SIGKILL)
        wait_for(lambda: (job := site.in_the_middle(job_id)) and job.run != first)
        os.kill(wait_for(lambda: site.at_work(job_id))[1], signal.SIGKILL)
        job = site.ended(job_id)

        assert job.state is JobState.FAILED
        assert job.failure is not None
        assert job.failure.slug == "job-crashed"


def test_a_picture_on_which_the_engine_dies_twice_fails_and_others_go_on(site: Site) -> None:
    with site.worker_host() as host:
        job_id = site.submit(ENDLESS)
        wait_for(lambda: site.in_the_middle(job_id))
        # The engine's death between two tiles of the job does not count against the job, so more
        # than two may be needed; the host gives up an engine after five.
        for _ in range(4):
            os.kill(host.engine, signal.SIGKILL)
            wait_for(partial(ended_or_beyond, site, job_id, site.job(job_id).tiles_done + 4))
            if site.job(job_id).ended:
                break
        job = site.ended(job_id)
        small = site.ended(site.submit(noise(40, 50)))

        assert job.failure is not None
        assert job.failure.slug == "engine-lost"
        assert small.state is JobState.SUCCEEDED


def test_a_job_survives_its_worker_once_and_not_twice(site: Site) -> None:
    with site.worker_host():
        once, twice = site.submit(HUGE), site.submit(ENDLESS)
        first = wait_for(lambda: site.in_the_middle(once)).run
        os.kill(wait_for(lambda: site.at_work(once))[0], signal.SIGKILL)
        # The next job starts while the lost one waits for its lease to end.
        killed = wait_for(lambda: site.in_the_middle(twice), seconds=PATIENCE).run
        os.kill(wait_for(lambda: site.at_work(twice))[0], signal.SIGKILL)
        # Either of the two may come first in their second runs.
        second = wait_for(
            lambda: (job := site.in_the_middle(twice)) and job.run != killed and job,
            seconds=PATIENCE,
        )
        os.kill(wait_for(lambda: site.at_work(twice))[0], signal.SIGKILL)
        lost = site.ended(twice, seconds=PATIENCE)
        recovered = site.ended(once, seconds=PATIENCE)

        assert recovered.state is JobState.SUCCEEDED
        assert recovered.run != first
        assert second.run is not None
        assert lost.failure is not None
        assert lost.failure.slug == "worker-lost"


def test_a_lost_job_may_wait_long_for_its_second_run(site: Site) -> None:
    with site.worker_host() as host:
        job_id = site.submit(HUGE)
        first = wait_for(lambda: site.in_the_middle(job_id)).run
        dead = wait_for(lambda: site.at_work(job_id))[0]
        os.kill(dead, signal.SIGKILL)
        alone = wait_for(lambda: successor(host, dead))
        suspend(alone)
        wait_for(lambda: site.job(job_id).state is JobState.QUEUED, seconds=PATIENCE)
        for _ in range(4):
            wait_for(lambda: not site.client.exists(REAPER), what="a reaper that is done")
            wait_for(lambda: site.client.exists(REAPER), what="the next one")
        waiting = site.job(job_id)
        os.kill(alone, signal.SIGCONT)
        job = site.ended(job_id, seconds=PATIENCE)

        assert waiting.state is JobState.QUEUED
        assert job.state is JobState.SUCCEEDED
        assert job.run != first


def test_a_worker_that_is_starved_for_seconds_keeps_its_job(site: Site) -> None:
    with site.worker_host():
        job_id = site.submit(HUGE)
        run = wait_for(lambda: site.in_the_middle(job_id)).run
        starved = wait_for(lambda: site.at_work(job_id))
        with suspended(*starved):
            wait_for(lambda: lease(site) < 10, what="a lease that is a third over")
        job = site.ended(job_id, seconds=PATIENCE)

        assert job.state is JobState.SUCCEEDED
        assert job.run == run


def test_no_queued_job_is_lost_when_valkey_is_killed(site: Site, server: ValkeyServer) -> None:
    with site.worker_host() as host:
        running = site.submit(HUGE)
        wait_for(lambda: site.in_the_middle(running))
        queued = [site.submit(noise(300, 300, seed=seed)) for seed in range(4)]
        server.kill()
        server.start()
        jobs = [site.ended(job_id, seconds=PATIENCE) for job_id in (running, *queued)]

        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 5
        assert host.process.poll() is None


def test_a_job_outlives_a_redis_that_is_away_for_longer_than_its_time_limit(
    site: Site, server: ValkeyServer
) -> None:
    with site.worker_host() as host:
        with host.held():
            job_id = site.submit(ENDLESS)
            spec = json.loads(site.client.hget(job_key(job_id), "spec"))
            short = json.dumps({**spec, "time_limit": "PT30S"})
            site.client.hset(job_key(job_id), "spec", short)
        run = wait_for(lambda: site.in_the_middle(job_id)).run
        worker, child = wait_for(lambda: site.at_work(job_id))
        with suspended(worker):
            wait_for(lambda: lease(site) < 9, what="a sweep that is due")
            server.kill()
        wait_for(lambda: not command_line(child), what="the end of the child")
        killed_at = time.monotonic() + OVERTIME  # by its parent, if it had not ended
        wait_for(lambda: time.monotonic() > killed_at, what="the end of the overtime")
        server.start()
        again = wait_for(lambda: (job := site.job(job_id)).run != run and job, seconds=PATIENCE)

        assert again.failure is None


def test_a_worker_that_is_told_to_end_hands_its_job_back_unharmed(site: Site) -> None:
    with site.worker_host(drain="1", tile="64") as leaving:
        long = site.submit(ENDLESS)
        behind = site.submit(noise(300, 300))
        run = wait_for(lambda: site.in_the_middle(long)).run
        leaving.stop()
        waiting = site.job(long)

        assert leaving.process.returncode == 0
        assert waiting.state is JobState.QUEUED
        assert [
            site.queue.queue_positions()[job_id].position for job_id in (waiting.id, behind)
        ] == [0, 1]

    with site.worker_host():
        wait_for(lambda: site.in_the_middle(long))
        # The hand-back did not use up the retry, so the job survives a crash.
        os.kill(wait_for(lambda: site.at_work(long))[1], signal.SIGKILL)
        again = wait_for(
            lambda: (job := site.job(long)).state is JobState.RUNNING and job.run != run and job
        )

        assert again.failure is None
        site.queue.cancel(long)
        assert site.ended(behind).state is JobState.SUCCEEDED
