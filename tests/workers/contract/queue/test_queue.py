"""The queue is written atomically, bounded, and unaffected by what others write into Redis."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import running_valkey
from records import image_info, model_info, options

from workers.contract.errors import EngineLost, QueueFull, QueueUnavailable
from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import AlphaMode, DepthMode
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import BatchSpec, unpack_task
from workers.contract.queue.connection import connect
from workers.contract.queue.engines import ModelInfo
from workers.contract.queue.jobs import ImageInfo, JobResult, JobState
from workers.contract.queue.queue import (
    TIME_LIMIT_BASE,
    JobQueue,
    blend_spec,
    new_job_id,
    time_limit,
)
from workers.contract.queue.runs import (
    LARGE,
    LEASES,
    RUNNING,
    SMALL,
    WAITING,
    acquire_lease,
    next_task,
    open_queue,
    record_key,
    renew_lease,
    requeue,
)
from workers.contract.queue.validation import RequestedOptions
from workers.jobs.recovery import sweep

RESULT = JobResult(
    key="results/a.png", size=1, sha256="0", format=ResultFormat.PNG, width=4, height=4,
    model="lite", checkpoint="0", device="CPU", precision="float32", seconds={},
    expires_at=datetime.now(UTC),
)  # fmt: skip


def make_queue(client: redis.Redis, *, max_queued: int = 10) -> JobQueue:
    return JobQueue(
        client,
        record_ttl=timedelta(minutes=5),
        bounds=QueueLimits(jobs=max_queued, pixels=10**9),
        small_pixels=100 * 100,
    )


@pytest.fixture
def queue(client: redis.Redis) -> JobQueue:
    return make_queue(client)


def submit(queue: JobQueue, *, side: int = 64) -> str:
    job_id = new_job_id()
    queue.submit(job_id, image_info(width=side, height=side), options(), model_info())
    return job_id


def test_small_and_large_pictures_wait_in_queues_of_their_own(queue: JobQueue) -> None:
    submit(queue, side=100)
    submit(queue, side=101)

    assert queue.depths() == {SMALL: 1, LARGE: 1}


def test_the_position_counts_the_jobs_before(queue: JobQueue) -> None:
    ids = [submit(queue) for _ in range(3)]

    assert [queue.queue_positions()[job_id].position for job_id in ids] == [0, 1, 2]


def test_a_full_queue_takes_nothing(client: redis.Redis) -> None:
    queue = make_queue(client, max_queued=2)
    submit(queue)
    submit(queue, side=200)

    with pytest.raises(QueueFull, match="would exceed its limit of 2 jobs"):
        submit(queue)
    assert len(queue.records.active()) == 2


def test_a_cancelled_job_leaves_the_queue_and_frees_its_place(queue: JobQueue) -> None:
    first, second = submit(queue), submit(queue)
    cancelled = queue.cancel(first)

    assert cancelled.state is JobState.CANCELLED
    assert queue.depths()[SMALL] == 1
    assert queue.queue_positions()[second].position == 0
    assert queue.cancel(first) == cancelled


def test_a_redis_that_is_full_takes_nothing_half(queue: JobQueue, client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="it is full"):
            submit(queue)
    finally:
        client.config_set("maxmemory", 0)

    assert queue.records.active() == []
    assert queue.depths() == {SMALL: 0, LARGE: 0}
    assert client.keys("gdsr:job:*") == client.keys("rq:job:*") == []


def test_a_redis_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        client = connect(server.url, timeout=timedelta(seconds=1), retries=0)
        queue = make_queue(client)
        server.kill()

        with pytest.raises(QueueUnavailable, match="try again later"):
            submit(queue)


def popped(client: redis.Redis, name: str = SMALL) -> str:
    """Take a job as a worker that dies before it starts it; return its id."""
    task = next_task(client, name, seconds=None)
    assert task is not None
    return task


def end_lease(client: redis.Redis, task: str) -> None:
    client.zadd(LEASES, {task: 1})


def look_for_losses(queue: JobQueue) -> list[tuple[str, str]]:
    """Sweep; return the jobs that failed, each with its reason."""
    failed: list[tuple[str, str]] = []
    sweep(queue.records, lambda job, error: failed.append((job.id, error.slug)))
    return failed


def test_a_job_whose_worker_dies_before_it_begins_waits_again_at_the_front(
    queue: JobQueue, client: redis.Redis
) -> None:
    first, second = submit(queue), submit(queue)
    assert popped(client) == first
    look_for_losses(queue)
    look_for_losses(queue)

    assert {job_id: place.position for job_id, place in queue.queue_positions().items()} == {
        first: 0,
        second: 1,
    }


def test_a_job_delivered_twice_starts_once(queue: JobQueue, client: redis.Redis) -> None:
    job_id = submit(queue)
    popped(client)
    look_for_losses(queue)  # before its worker starts it

    assert queue.records.start(job_id, run="one", worker="a")
    assert popped(client) == job_id
    assert not queue.records.start(job_id, run="two", worker="b")
    assert queue.records.succeed(job_id, run="one", result=RESULT)
    look_for_losses(queue)
    assert queue.depths() == {SMALL: 0, LARGE: 0}


def test_a_run_whose_lease_has_ended_is_lost_and_its_job_waits_at_the_front(
    queue: JobQueue, client: redis.Redis
) -> None:
    lost, other = submit(queue), submit(queue)
    popped(client)
    queue.records.start(lost, run="one", worker="w")
    look_for_losses(queue)
    assert queue.get(lost).state is JobState.RUNNING

    end_lease(client, lost)
    assert look_for_losses(queue) == []

    assert [queue.queue_positions()[job_id].position for job_id in (lost, other)] == [0, 1]
    assert not renew_lease(client, lost, run="one")


def test_a_run_that_was_lost_fails_nothing_that_waits_for_its_second_run(
    queue: JobQueue, client: redis.Redis
) -> None:
    job_id, batch_id = submit(queue), new_job_id()
    batches = BatchQueue(queue)
    batches.submit(
        BatchSpec(
            id=batch_id, requested=RequestedOptions(), size=100, pictures=1,
            time_limit=timedelta(minutes=2),
        )
    )  # fmt: skip
    queue.records.start(job_id, run="one", worker="w")
    acquire_lease(client, unpack_task(batch_id), run="one", worker="w")
    end_lease(client, job_id)
    end_lease(client, unpack_task(batch_id))
    look_for_losses(queue)

    assert not queue.records.fail(job_id, error=EngineLost("it hung"), run="one")
    assert not batches.records.fail(batch_id, error=EngineLost("it hung"), run="one")
    assert queue.records.start(job_id, run="two", worker="w")
    assert acquire_lease(client, unpack_task(batch_id), run="two", worker="w")


def test_a_cancelled_run_does_not_go_on_for_the_job_that_is_requested_again(
    queue: JobQueue, client: redis.Redis
) -> None:
    spec = blend_spec(new_job_id(), queue.get(submit(queue)), options(trade_off=0.2))
    queue.submit_blend(spec)
    queue.records.start(spec.id, run="one", worker="w")

    queue.submit_blend(spec, instead=queue.cancel(spec.id))

    assert not renew_lease(client, spec.id, run="one")
    assert not queue.records.progress(spec.id, run="one", tiles_done=1, tiles=2)
    assert queue.records.start(spec.id, run="two", worker="w")
    assert renew_lease(client, spec.id, run="two")


def test_a_run_that_beats_at_the_last_moment_keeps_its_job(
    queue: JobQueue, client: redis.Redis
) -> None:
    job_id = submit(queue)
    queue.records.start(job_id, run="one", worker="w")
    end_lease(client, job_id)

    assert renew_lease(client, job_id, run="one")
    assert requeue(client, job_id, run="one", why="overdue") == "over"
    assert queue.get(job_id).state is JobState.RUNNING


def test_a_job_that_is_lost_twice_fails_and_is_published(
    queue: JobQueue, client: redis.Redis
) -> None:
    job_id = submit(queue)
    for run in ("one", "two"):
        assert popped(client) == job_id
        assert queue.records.start(job_id, run=run, worker="w")
        end_lease(client, job_id)
        failed = look_for_losses(queue)

    assert failed == [(job_id, "worker-lost")]
    assert queue.get(job_id).state is JobState.FAILED
    assert client.exists(LEASES, WAITING, RUNNING) == 0


@pytest.mark.parametrize(
    ("first", "then", "verdict"),
    [("crashed", "crashed", "crashed"), ("lost", "crashed", "lost"), ("crashed", "lost", "lost")],
)
def test_only_jobs_that_crashed_twice_end_as_job_crashed(
    queue: JobQueue, client: redis.Redis, first: Any, then: Any, verdict: str
) -> None:
    job_id = submit(queue)
    queue.records.start(job_id, run="one", worker="w")
    assert requeue(client, job_id, run="one", why=first) == "queued"
    queue.records.start(job_id, run="two", worker="w")

    assert requeue(client, job_id, run="two", why=then) == verdict


def test_a_run_that_leaves_on_purpose_costs_no_try(queue: JobQueue, client: redis.Redis) -> None:
    job_id = submit(queue)
    for run in ("one", "two", "three"):
        queue.records.start(job_id, run=run, worker="w")
        assert requeue(client, job_id, run=run, why="leaves") == "queued"

    assert queue.queue_positions()[job_id].position == 0
    assert queue.depths()[SMALL] == 1


def test_a_task_without_a_record_leaves_nothing(queue: JobQueue, client: redis.Redis) -> None:
    waiting, running = submit(queue), submit(queue)
    queue.records.start(running, run="one", worker="w")
    client.delete(record_key(waiting), record_key(running))
    open_queue(SMALL, client).empty()
    end_lease(client, running)
    look_for_losses(queue)

    assert client.exists(LEASES, WAITING, RUNNING) == 0


def test_a_running_job_without_a_lease_gets_one(queue: JobQueue, client: redis.Redis) -> None:
    job_id = submit(queue)
    queue.records.start(job_id, run="one", worker="w")
    client.delete(LEASES)
    look_for_losses(queue)

    assert client.zscore(LEASES, job_id) is not None
    assert queue.get(job_id).state is JobState.RUNNING


def test_rq_reads_nothing_of_its_own(queue: JobQueue, client: redis.Redis) -> None:
    """RQ's own record may hold anything, such as code to be run."""
    job_id = submit(queue)
    client.hset(f"rq:job:{job_id}", mapping={"status": "none such", "data": "["})

    assert popped(client) == job_id


def test_the_time_limit_follows_from_pixels_and_measured_speed() -> None:
    slow, quick = model_info(speed=1_000), model_info(speed=100_000)
    small, large = image_info(width=100), image_info(width=10_000)

    assert time_limit(large, options(), slow) > time_limit(large, options(), quick)
    assert time_limit(large, options(), quick) > time_limit(small, options(), quick)
    assert time_limit(small, options(), quick) > timedelta(minutes=1)


def test_the_time_limit_knows_what_the_network_does_besides() -> None:
    image, half = (
        image_info(width=10_000, height=1_000),
        model_info(speed=10_000, precision="bfloat16"),
    )

    def seconds(image: ImageInfo, model: ModelInfo, **changes: object) -> float:
        limit = time_limit(image, options().model_copy(update=changes), model)
        return (limit - TIME_LIMIT_BASE).total_seconds()

    plain = seconds(image, half)
    clear = image.model_copy(update={"has_alpha": True})
    deep = image.model_copy(update={"bits": 16})
    assert seconds(image, half, keep_branches=True) == 2 * plain
    assert seconds(clear, half) == 2 * plain
    assert seconds(clear, half, alpha=AlphaMode.LANCZOS) == plain
    assert seconds(deep, half) == seconds(image, half, depth=DepthMode.SIXTEEN) == 8 * plain
    assert seconds(deep, half, format=ResultFormat.JPEG) == plain
    assert seconds(deep, half, depth=DepthMode.EIGHT) == plain
    assert seconds(deep, model_info(speed=10_000, precision="float32")) == plain
