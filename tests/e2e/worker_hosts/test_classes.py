"""On one worker host, neither small nor large pictures wait long for the others."""

from collections.abc import Iterator
from functools import partial

import pytest
from hosts import Site, WorkerHost, noise
from networks import tiny_checkpoint
from processes import command_line, running_valkey, suspended, wait_for

from workers.contract.queue.jobs import Job, JobState

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL, LARGE = (32, 32), (280, 280)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, WorkerHost]]:
    """A worker host with a worker of each class, shared by all tests of this file."""
    folder = tmp_path_factory.mktemp("classes")
    with running_valkey(folder / "valkey") as server:
        site = Site(server.url, folder / "blobs", tiny_checkpoint(folder / "tiny.safetensors"))
        with site.worker_host() as host:
            yield site, host


def started(job: Job) -> float:
    assert job.state is JobState.SUCCEEDED, job.failure
    assert job.started_at is not None
    return job.started_at.timestamp()


def finished(job: Job) -> float:
    assert job.finished_at is not None
    return job.finished_at.timestamp()


def test_every_worker_takes_small_pictures_while_no_large_one_waits(
    running: tuple[Site, WorkerHost],
) -> None:
    site, host = running
    with host.engine_held():
        jobs = [site.submit(noise(*SMALL, seed=seed)) for seed in range(2)]
        pids = [wait_for(partial(site.worker_of, job_id)) for job_id in jobs]

    assert set(pids) == set(host.job_workers)
    assert all(started(site.ended(job_id)) for job_id in jobs)


def test_a_small_picture_does_not_wait_for_large_ones(running: tuple[Site, WorkerHost]) -> None:
    site, host = running
    with host.engine_held():
        large = [site.submit(noise(*LARGE, seed=seed)) for seed in range(3)]
        wait_for(partial(site.worker_of, large[0]))
        small = site.submit(noise(*SMALL))
        wait_for(partial(site.worker_of, small), what="a small job beside a large one")

    end = finished(site.ended(small))
    assert all(end < finished(site.ended(job_id)) for job_id in large[1:])


def test_a_large_picture_does_not_wait_for_all_small_ones(running: tuple[Site, WorkerHost]) -> None:
    """The worker of both classes takes it first, however many small ones came before."""
    site, host = running
    (other,) = (pid for pid in host.job_workers if "--queue gdsr-small" in command_line(pid))
    with suspended(other):
        with host.engine_held():
            first = site.submit(noise(*LARGE, seed=1))
            wait_for(partial(site.worker_of, first))
            small = [site.submit(noise(*SMALL, seed=seed)) for seed in range(16)]
            large = site.submit(noise(*LARGE))
        last = started(site.ended(large))

    assert all(started(site.ended(job_id)) > last for job_id in small)


def test_of_a_picture_that_has_ended_nothing_is_left_to_be_done_again(
    running: tuple[Site, WorkerHost],
) -> None:
    site, _ = running
    for size in (SMALL, LARGE):
        site.ended(site.submit(noise(*size)))

    assert site.queue.depths() == {"gdsr-small": 0, "gdsr-large": 0}
