"""Several worker hosts share one Redis, and leave jobs that they cannot do."""

import json
import os
import signal
from functools import partial

import pytest
from hosts import Site, WorkerHost, noise
from processes import children, command_line, wait_for

from workers.contract.errors import ModelUnknown
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import pack_key
from workers.contract.queue.jobs import SCHEMA, JobState

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_two_hosts_share_the_queue(site: Site) -> None:
    with site.worker_host() as one, site.worker_host() as other:
        with one.engine_held(), other.engine_held():
            jobs = [site.submit(noise(280, 280, seed=seed)) for seed in range(2)]
            pids = {wait_for(partial(site.worker_of, job_id)) for job_id in jobs}
        ended = [site.ended(job_id) for job_id in jobs]

        assert [job.state for job in ended] == [JobState.SUCCEEDED] * 2
        assert pids & set(one.job_workers)
        assert pids & set(other.job_workers)


def test_a_waiting_child_of_a_job_worker_may_die_before_its_job(site: Site) -> None:
    with site.worker_host() as host:
        waiting = wait_for(lambda: waiting_children(host))
        with host.engine_held():
            job_id = site.submit(noise(40, 40))
            _, child = wait_for(lambda: site.at_work(job_id))
        site.ended(job_id)

        assert child in waiting

        idle = wait_for(lambda: waiting_children(host))
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(map(command_line, idle)), what="the end of the children")
        job = site.ended(site.submit(noise(40, 40)))

        assert job.state is JobState.SUCCEEDED
        assert "its run crashed" not in host.stop()  # unlike for a running job's child


def test_a_child_does_further_jobs_until_one_fails(site: Site) -> None:
    with site.worker_host() as host:
        first = wait_for(lambda: waiting_children(host))
        # There are more jobs than workers, so one worker has done two.
        done = [site.ended(site.submit(noise(40, 40, seed=seed))) for seed in range(3)]

        assert [job.state for job in done] == [JobState.SUCCEEDED] * 3
        assert waiting_children(host) == first

        failed = site.ended(site.submit(noise(40, 40), stored=b"no picture"))
        wait_for(lambda: (now := waiting_children(host)) and now != first, what="another child")

        assert failed.state is JobState.FAILED


def waiting_children(host: WorkerHost) -> list[int] | None:
    """Return the children of all job workers once each worker has exactly one."""
    found = [children(worker) for worker in host.job_workers]
    return [pid for (pid,) in found] if all(map(len, found)) else None


def test_a_model_that_no_engine_has_is_refused_with_those_there_are(site: Site) -> None:
    with site.worker_host(), pytest.raises(ModelUnknown, match=r"'paper'.*available: tiny"):
        site.submit(noise(40, 40), model="paper")


def test_a_picture_that_needs_more_memory_than_a_job_may_use_fails_alone(site: Site) -> None:
    with site.worker_host(job_memory=str(500 * 1024**2)):
        large = site.ended(site.submit(noise(3000, 3000)))
        small = site.ended(site.submit(noise(30, 30)))

        assert large.failure is not None
        assert large.failure.slug == "job-out-of-memory"
        assert small.state is JobState.SUCCEEDED


def test_results_that_will_have_no_room_are_refused_before_the_network_runs(site: Site) -> None:
    with site.worker_host(job_memory="2000000000"):  # enough for three outputs of 432 MB
        reduced = site.ended(site.submit(noise(3000, 3000), keep_branches=True, scale=3.9))

        assert reduced.failure is not None
        assert reduced.failure.slug == "job-out-of-memory"
        assert not reduced.tiles_done


def test_a_worker_leaves_a_job_of_a_newer_release_in_the_queue_and_does_the_others(
    site: Site,
) -> None:
    with site.worker_host() as host:
        with host.held():
            newer, ours = site.submit(noise(40, 50)), site.submit(noise(40, 50, seed=1))
            spec = json.loads(site.client.hget(f"gdsr:job:{newer}", "spec"))
            site.client.hset(
                f"gdsr:job:{newer}", "spec", json.dumps({**spec, "schema_version": SCHEMA + 1})
            )

        assert site.ended(ours).state is JobState.SUCCEEDED
        assert site.client.hget(f"gdsr:job:{newer}", "state") == b"queued"

        site.client.hset(f"gdsr:job:{newer}", "spec", json.dumps(spec))  # now readable
        assert site.ended(newer).state is JobState.SUCCEEDED


def test_a_job_whose_record_is_damaged_fails_and_the_others_go_on(site: Site) -> None:
    with site.worker_host() as host:
        with host.held():
            damaged, whole = site.submit(noise(8, 8)), site.submit(noise(8, 8))
            site.client.hset(f"gdsr:job:{damaged}", "spec", "{ no JSON")

        assert site.ended(whole).state is JobState.SUCCEEDED
        failure = wait_for(lambda: site.client.hget(f"gdsr:job:{damaged}", "failure"))
        assert b"record is invalid" in failure
        assert damaged.encode() not in site.client.hkeys("gdsr:jobs:waiting")
        assert host.process.poll() is None


def test_a_zip_whose_record_is_damaged_fails_and_may_be_packed_again(site: Site) -> None:
    batches = BatchQueue(site.queue)
    with site.worker_host() as host:
        with host.held():
            batches.submit_pack("some", size=1)
            site.client.hset(pack_key("some"), "note", "{ no JSON")

        wait_for(lambda: b"invalid" in (site.client.hget(pack_key("some"), "note") or b""))
        assert 0 < site.client.ttl(pack_key("some")) <= 30
        assert site.client.hkeys("gdsr:jobs:waiting") == []
