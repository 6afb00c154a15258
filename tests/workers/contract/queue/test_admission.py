"""The queue bounds jobs, pixels and daily pixels, and estimates when a waiting job starts."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis
from factories import engine_info, register
from records import image_info, model_info, options

from workers.contract.errors import PixelsExceeded, QueueFull
from workers.contract.queue.admission import QueueLimits, pixels_today
from workers.contract.queue.estimates import queue_positions
from workers.contract.queue.jobs import Job, JobState
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.runs import RUNNING, WAITING, requeue


def make_queue(
    client: redis.Redis, *, jobs: int = 100, pixels: int = 10**9, pixels_per_day: int | None = None
) -> JobQueue:
    return JobQueue(
        client,
        record_ttl=timedelta(minutes=5),
        bounds=QueueLimits(jobs=jobs, pixels=pixels, pixels_per_day=pixels_per_day),
        small_pixels=100 * 100,
    )


def submit(queue: JobQueue, *, side: int = 100, owner: str = "") -> Job:
    return queue.submit(
        new_job_id(), image_info(width=side, height=side), options(), model_info(), owner=owner
    )


def test_pixels_that_wait_are_bounded(client: redis.Redis) -> None:
    queue = make_queue(client, pixels=25_000)
    submit(queue)
    submit(queue)

    with pytest.raises(QueueFull, match="25,000 pixels") as refused:
        submit(queue)
    assert refused.value.limits == {"max_queued_pixels": 25_000}
    submit(queue, side=70)
    assert len(queue.records.active()) == sum(queue.depths().values()) == 3


def test_a_job_that_starts_or_ends_leaves_room(client: redis.Redis) -> None:
    queue = make_queue(client, jobs=2, pixels=20_000)
    first, second = submit(queue), submit(queue)

    queue.records.start(first.id, run="a", worker="w")
    submit(queue)
    queue.cancel(second.id)
    submit(queue)
    with pytest.raises(QueueFull):
        submit(queue)


def test_a_lost_run_waits_again_and_counts_again(client: redis.Redis) -> None:
    queue = make_queue(client, jobs=1)
    job = submit(queue)
    queue.records.start(job.id, run="a", worker="w")
    assert queue.records.load() == ({}, [10_000])

    assert requeue(client, job.id, run="a", why="lost") == "queued"
    assert queue.records.load() == ({job.id: 10_000}, [])
    with pytest.raises(QueueFull):
        submit(queue)


def test_nothing_is_left_of_the_load_when_all_have_ended(client: redis.Redis) -> None:
    queue = make_queue(client)
    for _ in range(3):
        queue.cancel(submit(queue).id)

    assert client.exists(WAITING, RUNNING) == 0


def test_many_at_once_never_pass_a_bound(client: redis.Redis) -> None:
    queue = make_queue(client, jobs=7)

    def accepted(_: int) -> bool:
        try:
            submit(queue)
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(accepted, range(60)))

    assert answers.count(True) == 7
    assert len(queue.records.active()) == sum(queue.depths().values()) == 7


def test_the_pause_of_a_full_queue_is_what_the_engines_need(client: redis.Redis) -> None:
    queue = make_queue(client, pixels=20_000)
    register(client, engine_info(models=(model_info(speed=1_000.0),)))
    submit(queue)
    submit(queue)

    with pytest.raises(QueueFull, match="in 10 s") as refused:
        submit(queue)
    assert refused.value.pause == timedelta(seconds=10)


def test_an_owner_has_so_many_pixels_a_day(client: redis.Redis) -> None:
    queue = make_queue(client, pixels_per_day=20_000)
    submit(queue, owner="ann")
    submit(queue, owner="ann")

    with pytest.raises(PixelsExceeded, match="quota of 20,000 pixels a day") as refused:
        submit(queue, owner="ann", side=1)
    assert refused.value.pause == timedelta(hours=12)  # until midnight
    assert submit(queue, owner="ben").state is JobState.QUEUED
    assert (pixels_today(client, "ann"), pixels_today(client, "ben")) == (20_000, 10_000)


def test_uploads_that_the_queue_rejects_do_not_count_for_the_day(client: redis.Redis) -> None:
    queue = make_queue(client, jobs=1, pixels_per_day=50_000)
    submit(queue)

    with pytest.raises(QueueFull):
        submit(queue)
    assert pixels_today(client, "") == 10_000


def test_a_place_says_when_a_job_starts(client: redis.Redis) -> None:
    queue = make_queue(client)
    running, first, second = submit(queue), submit(queue), submit(queue)
    queue.records.start(running.id, run="a", worker="w")
    client.lrem("rq:queue:gdsr-small", 1, running.id)
    assert queue.queue_positions()[first.id] == (0, None)

    register(client, engine_info(models=(model_info(speed=1_000.0),)))

    assert queue.queue_positions() == {first.id: (0, 5), second.id: (1, 15)}


def test_the_place_of_one_job_is_the_one_among_all(client: redis.Redis) -> None:
    queue = make_queue(client)
    register(client, engine_info(models=(model_info(speed=1_000.0),)))
    running, *waiting = [submit(queue, side=side) for side in (90, 50, 300, 100, 200, 70)]
    queue.records.start(running.id, run="a", worker="w")
    client.lrem("rq:queue:gdsr-small", 1, running.id)

    assert {job.id: queue.queue_position(job) for job in waiting} == queue.queue_positions()
    assert queue.queue_position(running) is None


def test_queues_share_the_engines() -> None:
    waiting = {"a": 10, "b": 10, "huge": 100, "next": 1}

    found = queue_positions([["a", "b"], ["huge", "next"]], waiting=waiting, running=[], rate=1.0)

    assert {name: place.seconds for name, place in found.items()} == {
        "a": 0,
        "b": 20,
        "huge": 0,
        "next": 120,
    }
