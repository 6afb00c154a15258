"""The queue: written whole or not at all, bounded, and safe from what others write into Redis."""

import importlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import running_valkey
from records import image_info, model_info, options
from rq.executions import Execution
from rq.registry import clean_registries
from rq.serializers import JSONSerializer

from workers.contract.admission import Bounds
from workers.contract.choices import AlphaMode, DepthMode
from workers.contract.connection import connect
from workers.contract.engines import ModelInfo
from workers.contract.errors import QueueFull, QueueUnavailable
from workers.contract.formats import ResultFormat
from workers.contract.jobs import ImageInfo, JobState
from workers.contract.queue import TIME_LIMIT_BASE, JobQueue, new_job_id, time_limit
from workers.contract.safe_rq import LARGE, SMALL, TASKS, SafeJob, TaskRefused, open_queue
from workers.reaper import reconcile


def make_queue(client: redis.Redis, *, max_queued: int = 10) -> JobQueue:
    return JobQueue(
        client,
        record_ttl=timedelta(minutes=5),
        bounds=Bounds(jobs=max_queued, pixels=10**9),
        small_pixels=100 * 100,
    )


@pytest.fixture
def queue(client: redis.Redis) -> JobQueue:
    return make_queue(client)


def submit(queue: JobQueue, *, side: int = 64) -> str:
    job_id = new_job_id()
    queue.submit(job_id, image_info(width=side, height=side), options(), model_info())
    return job_id


def test_every_task_name_is_a_function_of_the_workers() -> None:
    for path in TASKS.values():
        module, function = path.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_small_and_large_pictures_wait_in_queues_of_their_own(queue: JobQueue) -> None:
    submit(queue, side=100)
    submit(queue, side=101)

    assert queue.depths() == {SMALL: 1, LARGE: 1}


def test_the_position_counts_the_jobs_before(queue: JobQueue) -> None:
    ids = [submit(queue) for _ in range(3)]

    assert [queue.places()[job_id].position for job_id in ids] == [0, 1, 2]


def test_a_full_queue_takes_nothing(client: redis.Redis) -> None:
    queue = make_queue(client, max_queued=2)
    submit(queue)
    submit(queue, side=200)

    with pytest.raises(QueueFull, match="more than 2 jobs would wait"):
        submit(queue)
    assert len(queue.records.active()) == 2


def test_a_cancelled_job_leaves_the_queue_and_frees_its_place(queue: JobQueue) -> None:
    first, second = submit(queue), submit(queue)
    cancelled = queue.cancel(first)

    assert cancelled.state is JobState.CANCELLED
    assert queue.depths()[SMALL] == 1
    assert queue.places()[second].position == 0
    assert queue.cancel(first) == cancelled


def test_a_job_whose_worker_died_can_be_cancelled(queue: JobQueue, client: redis.Redis) -> None:
    """Of its run nothing is known any more but the name."""
    job_id = submit(queue)
    client.zadd(f"rq:executions:{job_id}", {"gone": time.time() + 60})

    assert queue.cancel(job_id).state is JobState.CANCELLED
    assert not client.exists(f"rq:job:{job_id}", f"rq:executions:{job_id}")


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


def popped(client: redis.Redis, name: str = SMALL) -> SafeJob:
    queue = open_queue(name, client)
    found = queue.dequeue_any([queue], None, connection=client, serializer=JSONSerializer)
    assert found is not None
    job: SafeJob = found[0]
    return job


def leased(job: SafeJob, *, seconds: int = 15) -> Execution:
    with job.connection.pipeline() as pipe:
        run = Execution.create(job, seconds, pipe)
        pipe.execute()
    return run


def look_for_losses(client: redis.Redis) -> None:
    queue = open_queue(SMALL, client)
    queue.give_up_popped(after=timedelta(0))
    clean_registries(queue)


def fields(client: redis.Redis, job: SafeJob) -> list[bytes | None]:
    return client.hmget(job.key, ["status", "retries_left"])


def test_a_job_whose_worker_dies_before_it_starts_waits_again_once(
    queue: JobQueue, client: redis.Redis
) -> None:
    job_id = submit(queue)
    job = popped(client)
    look_for_losses(client)

    assert queue.places()[job_id].position == 0
    assert fields(client, job) == [b"queued", b"0"]
    assert popped(client).id == job_id
    look_for_losses(client)
    assert queue.depths()[SMALL] == 0
    assert fields(client, job) == [b"failed", b"0"]


def test_a_job_that_is_popped_again_has_its_whole_time_again(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    small = open_queue(SMALL, client)
    popped(client)
    small.give_up_popped()
    seen = client.hlen(f"{small.key}:popped")
    client.lmove(f"{small.key}:intermediate", small.key)  # left to another worker
    small.give_up_popped()

    assert seen == 1
    assert client.hlen(f"{small.key}:popped") == 0


def test_a_job_that_was_given_up_is_not_started_by_who_had_it(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    job = popped(client)
    look_for_losses(client)
    small = open_queue(SMALL, client)
    late = leased(job)

    assert not small.start(job, late, "one")
    assert small.start(job, leased(popped(client)), "another")
    assert not small.start(job, late, "one")
    assert fields(client, job) == [b"started", b"0"]


def test_a_job_of_which_a_run_has_a_lease_is_not_given_up(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    job = popped(client)
    run = leased(job)
    look_for_losses(client)
    small = open_queue(SMALL, client)

    assert small.start(job, run, "one")
    assert small.start(job, run, "one")  # asked again, when the answer to the first was lost
    look_for_losses(client)
    assert fields(client, job) == [b"started", b"1"]


def test_a_run_whose_lease_has_ended_before_it_starts_does_not(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    job = popped(client)
    run = leased(job, seconds=0)
    clean_registries(open_queue(SMALL, client))

    assert not open_queue(SMALL, client).start(job, run, "one")
    look_for_losses(client)
    assert fields(client, job) == [b"queued", b"0"]


def test_a_run_that_has_ended_leaves_its_job_for_a_moment_and_nothing_else(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    job, small = popped(client), open_queue(SMALL, client)
    before = set(client.keys("rq:*"))
    run = leased(job)
    assert small.start(job, run, "one")

    assert small.finish(job, run)
    assert set(client.keys("rq:*")) | {f"{small.key}:intermediate".encode()} == before
    assert fields(client, job) == [b"finished", b"1"]
    assert 0 < client.ttl(job.key) <= 60


def test_a_run_that_has_lost_its_job_does_not_finish_it(
    queue: JobQueue, client: redis.Redis
) -> None:
    submit(queue)
    job, small = popped(client), open_queue(SMALL, client)
    late = leased(job)
    assert small.start(job, late, "one")
    client.zadd(small.started_job_registry.key, {late.composite_key: 1})  # its lease is over
    look_for_losses(client)
    again = popped(client)
    assert small.start(again, leased(again), "another")

    assert not small.finish(job, late)
    assert fields(client, job) == [b"started", b"0"]
    assert small.started_job_registry.get_job_ids(cleanup=False) == [job.id]


def test_a_job_that_is_cancelled_before_it_starts_leaves_nothing(
    queue: JobQueue, client: redis.Redis
) -> None:
    job_id = submit(queue)
    job = popped(client)
    run = leased(job)
    queue.cancel(job_id)

    assert not open_queue(SMALL, client).start(job, run, "one")
    look_for_losses(client)
    assert not client.exists(job.key)
    assert queue.depths()[SMALL] == 0


def test_jobs_that_start_while_the_reaper_looks_at_them_stay_started(client: redis.Redis) -> None:
    queue = make_queue(client, max_queued=300)
    job_ids = [submit(queue) for _ in range(300)]
    small, over = open_queue(SMALL, client), threading.Event()

    def look() -> None:
        while not over.is_set():
            reconcile(client, queue.records, job_ids)

    with ThreadPoolExecutor(max_workers=1) as reaper:
        looking = reaper.submit(look)
        for _ in job_ids:
            job = popped(client)
            run = leased(job)
            assert small.start(job, run, "one")
            assert queue.records.start(job.id, run=run.id, worker="one")
        over.set()
        looking.result()

    found = queue.records.get_many(job_ids)
    assert {job.state for job in found.values() if job} == {JobState.RUNNING}


@pytest.mark.parametrize(
    ("function", "instance"),
    [("os.system", None), ("workers.tasks.upscale", None), ("upscale", "a string")],
)
def test_only_tasks_of_the_table_can_be_run(
    client: redis.Redis, function: str, instance: object
) -> None:
    job = SafeJob.create(function, connection=client, serializer=JSONSerializer)
    job._instance = instance

    with pytest.raises(TaskRefused):
        _ = job.func


def test_a_record_that_makes_no_sense_does_not_end_the_worker(client: redis.Redis) -> None:
    queue = open_queue(SMALL, client)
    client.hset("rq:job:bad", mapping={"status": "none such", "data": "["})
    client.rpush(queue.key, "bad")

    found = queue.dequeue_any([queue], None, connection=client, serializer=JSONSerializer)

    assert found is None
    assert client.lrange("gdsr:poison", 0, -1) == [b"bad"]


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
