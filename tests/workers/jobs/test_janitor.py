"""The janitor removes expired blobs, and never one that a pending job may still read."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from processes import free_port
from records import image_info, model_info, options
from redis.exceptions import LockNotOwnedError

from workers.contract.blobs.base import BlobEntry, StoredBlob
from workers.contract.blobs.file import FileBlobStore
from workers.contract.blobs.usage import freed_bytes, last_usage
from workers.contract.errors import WorkerLost
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import UNPACKING, BatchSpec
from workers.contract.queue.jobs import JobResult
from workers.contract.queue.queue import JobQueue, blend_spec, new_job_id
from workers.contract.queue.validation import RequestedOptions
from workers.contract.settings import WorkerSettings
from workers.host.parent_death import dying_with_parent
from workers.jobs.janitor import Sweep, sweep_if_due

HOUR = timedelta(hours=1)


@pytest.fixture
def queue(client: redis.Redis) -> JobQueue:
    return JobQueue(
        client, record_ttl=HOUR, bounds=QueueLimits(jobs=100, pixels=10**9), small_pixels=100 * 100
    )


def store(blobs: FileBlobStore, key: str, *, age: timedelta = timedelta(0), size: int = 100) -> str:
    blobs.write(key, [b"x" * size])
    written = time.time() - age.total_seconds()
    os.utime(blobs.path(key), (written, written))
    return key


def submitted(queue: JobQueue, blobs: FileBlobStore, *, age: timedelta = timedelta(0)) -> str:
    """Queue a job and return its id."""
    job_id = new_job_id()
    key = store(blobs, f"inputs/{job_id}", age=age)
    queue.submit(job_id, image_info(key=key), options(), model_info())
    return job_id


def finished(queue: JobQueue, blobs: FileBlobStore, *, age: timedelta) -> str:
    """A finished job with a result and a branch of 100 bytes each, whose input remains."""
    job_id = submitted(queue, blobs, age=age)
    key = store(blobs, f"results/{job_id}.run.png", age=age)
    branch = store(blobs, f"results/{job_id}.run.gan.png", age=age)
    queue.records.start(job_id, run="run", worker="worker")
    result = JobResult(
        key=key, size=100, sha256="0" * 64, format=ResultFormat.PNG, width=1, height=1,
        model="lite", checkpoint="0" * 64, device="cpu", precision="float32", seconds={},
        expires_at=datetime.now(UTC) + HOUR,
        branches={"gan": StoredBlob(key=branch, size=100, sha256="0" * 64)},
    )  # fmt: skip
    assert queue.records.succeed(job_id, run="run", result=result)
    return job_id


def sweep(queue: JobQueue, blobs: FileBlobStore, *, quota: int | None = None) -> dict[str, int]:
    """Sweep once; return the freed bytes by reason."""
    due = Sweep(records=queue.records, blobs=blobs)
    usage = due.sweep(result_ttl=HOUR, quota=quota)
    left = [entry for folder in ("inputs", "results") for entry in blobs.entries(folder)]
    assert (usage.blobs, usage.size) == (len(left), sum(entry.size for entry in left))
    return {reason: size for reason, size in due.freed.items() if size}


def keys(blobs: FileBlobStore) -> set[str]:
    return {entry.key for folder in ("inputs", "results") for entry in blobs.entries(folder)}


def test_results_go_when_their_time_is_over(queue: JobQueue, blobs: FileBlobStore) -> None:
    old = finished(queue, blobs, age=2 * HOUR)
    new = finished(queue, blobs, age=HOUR / 2)

    assert sweep(queue, blobs) == {"orphan": 200, "expired": 200}
    assert keys(blobs) == {f"results/{new}.run.png", f"results/{new}.run.gan.png"}
    assert queue.get(old).result is not None  # the record stays and says so


def test_uploads_are_removed_once_their_job_has_ended_or_if_there_is_none(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    waiting, running, failed = (submitted(queue, blobs, age=2 * HOUR) for _ in range(3))
    queue.records.start(running, run="run", worker="worker")
    queue.records.fail(failed, error=WorkerLost())
    store(blobs, "inputs/old", age=2 * HOUR)
    store(blobs, "inputs/new", age=HOUR / 2)

    assert sweep(queue, blobs) == {"orphan": 200}
    assert keys(blobs) == {f"inputs/{waiting}", f"inputs/{running}", "inputs/new"}


def test_two_maps_of_one_derived_job_go_like_any_upload(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    """A client that repeats its request during an outage leaves a map each time."""
    source = finished(queue, blobs, age=HOUR / 2)
    failed, never_made = new_job_id(), new_job_id()
    queue.submit_blend(blend_spec(failed, queue.get(source), options()))
    queue.records.fail(failed, error=WorkerLost())
    for blend in (failed, never_made):
        for attempt in ("first", "second"):
            store(blobs, f"inputs/{blend}.{attempt}", age=2 * HOUR)

    assert sweep(queue, blobs) == {"orphan": 500}
    assert keys(blobs) == {f"results/{source}.run.png", f"results/{source}.run.gan.png"}


def test_the_map_of_a_derived_job_stays_until_it_is_queued_again(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    source = queue.get(finished(queue, blobs, age=HOUR / 2))
    first, second = (store(blobs, f"inputs/derived.{number}") for number in "12")
    queue.submit_blend(blend_spec("derived", source, options(), map_key=first))
    queue.records.fail("derived", error=WorkerLost())

    sweep(queue, blobs)

    assert first not in keys(blobs)
    assert second in keys(blobs)


def test_pictures_stay_while_their_batch_is_still_being_unpacked(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    store(blobs, "inputs/abandoned", age=5 * HOUR)
    batches = BatchQueue(queue)
    spec = BatchSpec(id="batch", requested=RequestedOptions(), size=1, pictures=1, time_limit=HOUR)
    batch = batches.submit(spec)
    began = (datetime.now(UTC) - 3 * HOUR).timestamp()
    queue.client.zadd(UNPACKING, {batch.id: began})
    store(blobs, "inputs/picture", age=2 * HOUR)

    assert sweep(queue, blobs) == {"orphan": 100}
    assert keys(blobs) == {"inputs/picture"}
    batches.erase(batch)
    assert sweep(queue, blobs) == {"orphan": 100}


def test_an_old_file_of_others_stays_and_stops_no_sweep(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    store(blobs, "results/old.run.png", age=2 * HOUR)
    other = blobs.root / "results" / ".nfs000000000001"  # of a file that is open elsewhere
    other.write_bytes(b"x")
    os.utime(other, (0, 0))

    assert sweep(queue, blobs) == {"expired": 100}
    assert other.exists()


def test_blobs_of_a_running_job_stay_however_old(queue: JobQueue, blobs: FileBlobStore) -> None:
    job_id = submitted(queue, blobs, age=3 * HOUR)
    kept = store(blobs, f"results/{job_id}.run.psnr.png", age=2 * HOUR)

    assert sweep(queue, blobs, quota=1) == {}
    assert keys(blobs) == {f"inputs/{job_id}", kept}


def test_branches_of_a_run_that_ended_before_its_result_go_at_once(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    cancelled, failed, retried = (submitted(queue, blobs) for _ in range(3))
    whole = finished(queue, blobs, age=HOUR / 2)
    without_main = finished(queue, blobs, age=HOUR / 2)
    blobs.delete(f"results/{without_main}.run.png")
    for job_id in (cancelled, failed, retried, whole):
        store(blobs, f"results/{job_id}.lost.gan.png")
        store(blobs, f"results/{job_id}.lost.gan.webp")
    copied = store(blobs, "results/copied.cached.gan.png", age=HOUR / 2)  # before its record
    store(blobs, "results/erased.run.gan.png", age=1.5 * HOUR)
    queue.cancel(cancelled)
    queue.records.fail(failed, error=WorkerLost())

    due = Sweep(records=queue.records, blobs=blobs)
    due.sweep(result_ttl=2 * HOUR, quota=None)

    assert due.freed["orphan"] == 4 * 100 + 2 * 3 * 100 + 100
    assert keys(blobs) == {
        f"inputs/{retried}",
        f"results/{retried}.lost.gan.png",
        f"results/{retried}.lost.gan.webp",
        f"results/{whole}.run.png",
        f"results/{whole}.run.gan.png",
        f"results/{without_main}.run.gan.png",
        copied,
    }


def test_branches_stay_while_a_job_blends_them(queue: JobQueue, blobs: FileBlobStore) -> None:
    source = finished(queue, blobs, age=2 * HOUR)
    blend = new_job_id()
    queue.submit_blend(blend_spec(blend, queue.get(source), options(trade_off=0.25)))

    sweep(queue, blobs, quota=1)
    assert f"results/{source}.run.gan.png" in keys(blobs)

    queue.cancel(blend)
    sweep(queue, blobs)
    assert keys(blobs) == set()


def test_beyond_the_quota_the_oldest_results_go_first(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    waiting = submitted(queue, blobs, age=2 * HOUR)
    ids = [finished(queue, blobs, age=HOUR * share) for share in (0.9, 0.5, 0.1)]
    sweep(queue, blobs)  # removes the inputs

    assert sweep(queue, blobs, quota=700) == {}
    assert sweep(queue, blobs, quota=650) == {"quota": 100}
    assert sweep(queue, blobs, quota=400) == {"quota": 200}
    assert {key.split("/")[1].split(".")[0] for key in keys(blobs)} == {waiting, *ids[1:]}
    assert sweep(queue, blobs, quota=1) == {"quota": 300}
    assert keys(blobs) == {f"inputs/{waiting}"}


def test_temporary_files_go_when_no_upload_can_still_write_them(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    for name, age in (("old", 7200.0), ("new", 0.0)):
        path = blobs.root / "incoming" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)

    assert sweep(queue, blobs) == {"orphan": 4}
    assert [path.name for path in (blobs.root / "incoming").iterdir()] == ["new"]


def test_a_job_that_comes_during_the_sweep_keeps_what_it_needs(
    queue: JobQueue, blobs: FileBlobStore
) -> None:
    source = finished(queue, blobs, age=2 * HOUR)
    blends: list[str] = []

    def comes() -> None:
        if not blends:
            blends.append(new_job_id())
            queue.submit_blend(blend_spec(blends[0], queue.get(source), options(trade_off=0.25)))

    Sweep(records=queue.records, blobs=blobs, renew_lock=comes).sweep(result_ttl=HOUR, quota=1)

    assert f"results/{source}.run.gan.png" in keys(blobs)


SETTINGS = WorkerSettings(blob_quota=150)


def test_one_janitor_of_all_sweeps_and_tells_what_it_freed(
    queue: JobQueue, blobs: FileBlobStore, client: redis.Redis
) -> None:
    finished(queue, blobs, age=HOUR / 2)
    assert last_usage(client) is None

    assert sweep_if_due(SETTINGS, client, blobs) is not None
    assert sweep_if_due(SETTINGS, client, blobs) is None  # the next sweep is not due

    usage = last_usage(client)
    assert usage is not None
    assert (usage.blobs, usage.size, usage.quota) == (1, 100, 150)
    assert freed_bytes(client) == {"expired": 0, "orphan": 100, "quota": 100}


class Slow(FileBlobStore):
    """Takes minutes for a listing of a few thousand old results."""

    during: Callable[[], object]

    def entries(self, folder: str) -> Iterator[BlobEntry]:
        yield from super().entries(folder)
        for number in range(3000):
            if number % 1000 == 999:
                self.during()
            key = f"{folder}/{number}.run.png"
            yield BlobEntry(key=key, size=1, written_at=datetime.now(UTC) - 2 * HOUR)


def test_a_janitor_keeps_its_lock_while_the_store_lists_slowly(
    blobs: FileBlobStore, client: redis.Redis
) -> None:
    slow = Slow(blobs.root)
    slow.during = lambda: client.pexpire("gdsr:janitor", client.pttl("gdsr:janitor") - 40_000)
    usage = sweep_if_due(SETTINGS, client, slow)

    assert usage is not None
    assert freed_bytes(client) == {"expired": 3000, "orphan": 3000, "quota": 0}


def test_a_janitor_that_lost_its_lock_removes_nothing_more(
    queue: JobQueue, blobs: FileBlobStore, client: redis.Redis
) -> None:
    finished(queue, blobs, age=2 * HOUR)
    before = keys(blobs)
    slow = Slow(blobs.root)
    slow.during = lambda: client.set("gdsr:janitor", "another")

    with pytest.raises(LockNotOwnedError):
        sweep_if_due(SETTINGS, client, slow)

    assert keys(blobs) == before
    assert client.get("gdsr:janitor") == b"another"


def test_a_sweep_without_redis_says_which_server_does_not_answer(tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-m", "workers.jobs.janitor"],
        env={**os.environ, "GDSR_REDIS_URL": f"redis://{place}", "GDSR_BLOB_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
        text=True,
    ) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        process.terminate()

    assert line["message"].startswith("the sweep was aborted: ConnectionError: ")
    assert place in line["message"]
