"""Small and large pictures share a worker host: neither waits long for the other."""

import pytest
from hosts import Site, noise

from workers.contract.jobs import Job, JobState

pytestmark = pytest.mark.e2e

SMALL, LARGE = (64, 64), (420, 420)


def started(job: Job) -> float:
    assert job.state is JobState.SUCCEEDED, job.failure
    assert job.started_at is not None
    return job.started_at.timestamp()


def finished(job: Job) -> float:
    assert job.finished_at is not None
    return job.finished_at.timestamp()


def test_every_worker_takes_small_pictures_while_no_large_one_waits(site: Site) -> None:
    with site.worker_host() as host:
        jobs = [site.submit(noise(200, 200, seed=seed)) for seed in range(6)]
        ended = [site.ended(job_id) for job_id in jobs]

        pids = {int(job.worker.split("-")[-2]) for job in ended if job.worker}
        assert pids == set(host.job_workers)


def test_a_small_picture_does_not_wait_for_large_ones(site: Site) -> None:
    with site.worker_host():
        large = [site.submit(noise(*LARGE, seed=seed)) for seed in range(3)]
        small = site.submit(noise(*SMALL))

        end = finished(site.ended(small))
        assert all(end < finished(site.ended(job_id)) for job_id in large[1:])


def test_a_large_picture_does_not_wait_for_all_small_ones(site: Site) -> None:
    with site.worker_host():
        small = [site.submit(noise(*SMALL, seed=seed)) for seed in range(30)]
        large = site.submit(noise(*LARGE))

        begun = started(site.ended(large))
        after = [job_id for job_id in small if started(site.ended(job_id)) > begun]
        assert len(after) > len(small) / 2
