"""A site that is broken on purpose under load loses, doubles or swaps no picture.

Each drill has a short form (`-m slow`) and the long form of docs/reliability.md (`make drills`).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import redis
from drills.simulation import play
from drills.site import BATCH, DrillSite, disk_of, drill_site
from networks import tiny_checkpoint
from processes import ValkeyServer, running_valkey, wait_for

LOST = "failed: /problems/worker-lost"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def sizes(short: int, long: int) -> "pytest.MarkDecorator":
    return pytest.mark.parametrize(
        "jobs",
        [
            pytest.param(short, marks=pytest.mark.slow, id="short"),
            pytest.param(long, marks=pytest.mark.drill, id="long"),
        ],
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny.safetensors", consistency=True)


@pytest.fixture
def site(tmp_path: Path, checkpoint: Path) -> Iterator[DrillSite]:
    with drill_site(tmp_path, checkpoint) as site:
        yield site


@pytest.fixture
def checked(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Report the outcome of a site's jobs, and check it."""

    def tell(site: DrillSite, jobs: int, recovery: float, *, each: int = 1, lost: int = 0) -> None:
        site.check_results()
        line = (
            f"{request.node.name}: {jobs} jobs, {dict(site.fates)}, doubled "
            f"{site.listed() - jobs * each}, ready {recovery:.1f} s after the cure"
        )
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")
        assert site.fates == Counter({"right": jobs - lost, LOST: lost})
        assert site.listed() == jobs * each
        if "long" in request.node.callspec.id:  # only the long forms check speeds
            assert recovery < 10
        assert site.tracebacks() == []

    return tell


@pytest.fixture
def passed(site: DrillSite, checked: Callable[..., None]) -> Callable[..., None]:
    return partial(checked, site)


@sizes(15, 200)
def test_replies_that_are_lost(site: DrillSite, passed: Callable[..., None], jobs: int) -> None:
    site.proxy.lose_some(0.15)
    with site.driven(jobs):
        pass
    site.proxy.lose_some(0)

    assert site.proxy.lost > jobs / 10
    passed(jobs, site.wait_ready())


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(1, marks=pytest.mark.slow, id="short"),
        pytest.param(25, marks=pytest.mark.drill, id="long"),
    ],
)
def test_batches_whose_replies_are_lost(
    site: DrillSite, passed: Callable[..., None], batches: int
) -> None:
    site.proxy.lose_some(0.12)
    with site.driven(batches, a_second=0.5, batches=True):
        pass
    site.proxy.lose_some(0)

    assert site.proxy.lost > batches
    recovery = site.wait_ready()
    passed(batches, recovery, each=BATCH)


@sizes(10, 60)
def test_a_valkey_that_is_frozen(site: DrillSite, passed: Callable[..., None], jobs: int) -> None:
    with site.driven(jobs):
        for _ in range(jobs // 10):
            time.sleep(2)
            site.server.process.send_signal(signal.SIGSTOP)
            time.sleep(21)
            site.server.process.send_signal(signal.SIGCONT)
        recovery = site.wait_ready()
    passed(jobs, recovery)


@sizes(10, 210)
@pytest.mark.parametrize("trouble", ["away", "full", "read-only"])
def test_a_redis_that_is_of_no_use(
    site: DrillSite, passed: Callable[..., None], jobs: int, trouble: str
) -> None:
    seconds = 80 if jobs > 100 else 12
    with site.driven(jobs), redis.Redis.from_url(site.server.url) as operator:
        time.sleep(3)
        match trouble:
            case "away":
                site.server.kill()
            case "full":
                operator.config_set("maxmemory", 1)
            case _:
                operator.replicaof("127.0.0.1", 1)
        time.sleep(seconds)
        assert not site.ready()
        match trouble:
            case "away":
                site.server.start()
            case "full":
                operator.config_set("maxmemory", 0)
            case _:
                operator.replicaof("NO", "ONE")
        recovery = site.wait_ready()
    # Each job worker logs it, and so does a child that is then at work.
    assert site.said().count("Redis is unavailable") <= 4 * (1 + seconds // 60)
    passed(jobs, recovery)


@sizes(10, 60)
def test_a_picture_store_that_is_away(
    site: DrillSite, passed: Callable[..., None], jobs: int
) -> None:
    blobs = site.data / "blobs"
    with site.driven(jobs):
        for _ in range(max(1, jobs // 20)):
            time.sleep(2)
            blobs.rename(site.data / "away")
            time.sleep(12)
            (site.data / "away").rename(blobs)
        recovery = site.wait_ready()
    passed(jobs, recovery)


def fill(disk: Path, seconds: float) -> None:
    """Fill the disk for so many seconds, including space that becomes free."""
    end = time.monotonic() + seconds
    with (disk / "hog").open("wb", buffering=0) as hog:
        while time.monotonic() < end:
            with suppress(OSError):
                while hog.write(bytes(4096)):
                    pass
            time.sleep(0.2)
    (disk / "hog").unlink()


def remount(site: DrillSite, disk: Path, mode: str) -> None:
    """Remount a disk; retry, since a disk is busy while a file is being written."""
    command = ["nsenter", "--target", str(site.process.pid), "--user", "--mount", "--",
               "mount", "-o", f"remount,{mode}", str(disk)]  # fmt: skip
    wait_for(lambda: subprocess.run(command, check=False).returncode == 0, what="a remount")


@sizes(10, 150)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_takes_nothing(
    tmp_path: Path, checkpoint: Path, checked: Callable[..., None], jobs: int, trouble: str
) -> None:
    disk = tmp_path / "data" / "blobs"
    with drill_site(tmp_path, checkpoint, within=disk_of(disk, "64m")) as site:
        with site.driven(jobs):
            for _ in range(1 if jobs < 100 else 3):
                time.sleep(2)
                if trouble == "full":
                    fill(site.inside(disk), 12)
                else:
                    remount(site, disk, "ro")
                    time.sleep(12)
                    remount(site, disk, "rw")
            recovery = site.wait_ready()
        checked(site, jobs, recovery)


@sizes(8, 120)
def test_a_disk_without_room_for_pictures_or_queue(
    tmp_path: Path, checkpoint: Path, checked: Callable[..., None], jobs: int
) -> None:
    """Everything that `gdsr-up` stores is on the small disk, its own Valkey's data too."""
    disk = tmp_path / "data"
    within = disk_of(disk, "64m")
    with drill_site(tmp_path, checkpoint, within=within, GDSR_REDIS_URL=None) as site:
        with site.driven(jobs):
            time.sleep(2)
            fill(site.inside(disk), 12 if jobs < 100 else 80)
            recovery = site.wait_ready()
        checked(site, jobs, recovery)


@sizes(60, 10_000)
@pytest.mark.timeout(10_000)
def test_pictures_are_never_swapped(
    tmp_path: Path, checkpoint: Path, checked: Callable[..., None], jobs: int
) -> None:
    with drill_site(tmp_path, checkpoint, GDSR_JOB_WORKERS="4") as site:
        with site.driven(jobs, a_second=1000):
            pass
        checked(site, jobs, site.wait_ready())


@sizes(6, 40)
def test_an_engine_that_hangs(site: DrillSite, passed: Callable[..., None], jobs: int) -> None:
    (engine,) = site.pids("workers.engine")
    with site.driven(jobs):
        time.sleep(1)
        os.kill(engine, signal.SIGSTOP)
    assert engine not in site.pids("workers.engine")
    passed(jobs, site.wait_ready())


@sizes(12, 300)
def test_parts_that_are_killed(site: DrillSite, passed: Callable[..., None], jobs: int) -> None:
    luck = random.Random(jobs)
    with site.driven(jobs):
        for number in range(max(2, jobs // 12)):
            time.sleep(luck.uniform(2, 5))
            # By turns: the short form kills one of each, so no job is hit twice.
            if found := site.pids(("service", "workers.jobs.job_worker")[number % 2]):
                os.kill(luck.choice(found), signal.SIGKILL)
        recovery = site.wait_ready()
    # A job whose worker is killed twice fails with that reason.
    assert site.fates[LOST] <= jobs // 50
    passed(jobs, recovery, lost=site.fates[LOST])


@pytest.mark.slow
def test_five_hundred_lives_of_jobs(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")
        jobs = sum(len(play(server, seed, restart=seed == 499)) for seed in range(500))
        assert jobs > 500


@pytest.mark.slow
def test_a_schedule_is_the_same_again(valkey: ValkeyServer) -> None:
    first, again = ([play(valkey, seed) for seed in range(20)] for _ in range(2))
    assert first == again
