"""`GET /jobs/{id}/events` sends every change to every watcher over one Redis subscription."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta

import pytest
from factories import engine_info, register
from processes import ValkeyServer, wait_for
from serving import Serve, Site, problem_of
from sse import Event, watch, watching

from service import watcher
from workers.contract.errors import ImageCorrupt
from workers.contract.queue.runs import EVENTS, requeue


def test_a_watcher_sees_a_job_from_queue_to_end(site: Site) -> None:
    job_id = site.submit()
    with watching(site.http, job_id) as events:
        queued = next(events)
        site.start(job_id)
        running = next(events)
        site.records.progress(job_id, run="run", tiles_done=3, tiles=12)
        progress = next(events)
        site.records.fail(job_id, error=ImageCorrupt("no"))
        done = next(events)

        assert list(events) == []

    assert [queued.name, running.name, progress.name, done.name] == [
        "state", "state", "progress", "done",
    ]  # fmt: skip
    assert (queued.data["state"], queued.data["queue_position"]) == ("queued", 0)
    assert running.data["state"] == "running"
    assert progress.data == {
        "queue_position": None,
        "starts_in_seconds": None,
        "progress": {"tiles_done": 3, "tiles": 12},
    }
    assert done.data == site.http.get(f"/jobs/{job_id}").json()
    assert done.data["failure"]["type"] == "/problems/image-corrupt"
    assert queued.retry == "1000"


def test_a_job_that_has_ended_is_told_in_one_event(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id)

    with watching(site.http, job_id) as events:
        (done,) = events

    assert (done.name, done.data["state"]) == ("done", "succeeded")
    tag = site.http.get(f"/jobs/{job_id}").headers["ETag"]
    assert tag == f'"{done.id}"'


def test_a_client_that_reconnects_gets_only_new_events(site: Site) -> None:
    job_id = site.submit()
    with watching(site.http, job_id) as events:
        known = next(events).id
    with watching(site.http, job_id, after=known) as events:
        site.start(job_id)
        assert next(events).data["state"] == "running"
        site.records.cancel(job_id)
        done = next(events)

    again = site.http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": done.id})
    assert (again.status_code, again.content) == (204, b"")


def test_a_waiting_job_is_told_how_it_moves_up(site: Site) -> None:
    first, second = site.submit(), site.submit()
    with watching(site.http, second) as events:
        assert next(events).data["queue_position"] == 1

        site.http.delete(f"/jobs/{first}")

        moved = next(events)
    assert (moved.name, moved.data["queue_position"]) == ("progress", 0)


def test_a_job_that_is_erased_is_said_to_be_gone(site: Site) -> None:
    job_id = site.submit()
    with watching(site.http, job_id) as events:
        next(events)
        site.records.erase(job_id)

        assert next(events).name == "gone"
        assert list(events) == []
    assert site.http.get(f"/jobs/{job_id}/events").status_code == 404


def test_an_unknown_job_is_a_problem_and_no_stream(site: Site) -> None:
    response = site.http.get("/jobs/none/events")

    assert response.status_code == 404
    assert problem_of(response) == "job-not-found"


def test_changes_that_were_not_heard_while_redis_was_away_are_seen(
    serve: Serve, own_valkey: ValkeyServer
) -> None:
    site = serve(redis_url=own_valkey.url)
    register(site.redis, engine_info())
    job_id = site.submit()
    with watching(site.http, job_id) as events:
        next(events)
        site.redis.save()
        own_valkey.kill()
        own_valkey.start()
        wait_for(lambda: site.redis.exists(f"gdsr:job:{job_id}"), what="the record")
        site.start(job_id)

        assert next(events).data["state"] == "running"


def test_a_change_that_was_not_heard_is_seen_however_busy_the_others_are(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "RECHECK", timedelta(seconds=1))
    site = serve()
    register(site.redis, engine_info())
    job_id, seen = site.submit(), threading.Event()

    def others() -> bool:
        """Publish changes until the event is seen; return whether it was."""
        return any(
            seen.wait(0.1) for _ in range(300) if site.redis.publish(EVENTS, "other running")
        )

    with watching(site.http, job_id) as events, ThreadPoolExecutor(1) as pool:
        next(events)
        busy = pool.submit(others)
        site.redis.hset(f"gdsr:job:{job_id}", "state", "running")  # without a message
        assert next(events).data["state"] == "running"
        seen.set()
        assert busy.result()


def test_a_subscription_that_is_silent_is_made_again(
    serve: Serve, own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to a host that lost its power never ends."""
    monkeypatch.setattr(watcher, "SILENCE", timedelta(seconds=1))
    site = serve(redis_url=own_valkey.url)

    def subscribers() -> set[str]:
        return {client["id"] for client in site.redis.client_list(_type="pubsub")}

    first = wait_for(subscribers, what="a subscription")
    wait_for(lambda: subscribers() - first, seconds=60, what="another one")


def test_many_watchers_are_one_subscription(site: Site) -> None:
    job_id = site.submit()
    with ExitStack() as stack:
        streams = [stack.enter_context(watching(site.http, job_id)) for _ in range(20)]
        for events in streams:
            next(events)

        # Redis may not yet have noticed that an earlier service has ended.
        wait_for(lambda: site.redis.pubsub_numsub(EVENTS) == [(EVENTS.encode(), 1)])
        site.start(job_id)
        assert [next(events).data["state"] for events in streams] == ["running"] * 20


def test_a_service_that_stops_says_good_bye(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    job_id = site.submit()
    with watching(site.http, job_id) as events:
        next(events)
        site.server.should_exit = True

        assert [event.name for event in events] == ["bye"]


def test_a_watcher_that_never_reads_holds_no_other(serve: Serve) -> None:
    site = serve(body_timeout=timedelta(minutes=10))  # not cut, however long the changes take
    register(site.redis, engine_info())
    job_id = site.submit(name="n" * 250)
    site.server.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        idle.connect((site.http.base_url.host, site.http.base_url.port))
        idle.sendall(f"GET /jobs/{job_id}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())

        def changes(job_id: str) -> None:
            """Send far more events than the buffers between service and idle client hold."""
            with watching(site.http, job_id) as events:
                next(events)
                for step in range(60):
                    site.records.start(job_id, run=f"{step}", worker="worker")
                    assert next(events).data["state"] == "running"
                    requeue(site.redis, job_id, run=f"{step}", why="leaves")
                    assert next(events).data["state"] == "queued"
            site.succeed(job_id)

        others = asyncio.run(_all_see(str(site.http.base_url), [job_id] * 100, changes))
        assert [event.name for event in others] == ["done"] * 100
        late = b"".join(iter(lambda: idle.recv(65536), b"")).split(b"event: ")[1:]

    assert len(late) < 120  # it was blocked and missed steps
    assert late[-1].startswith(b"done")


async def _all_see(address: str, jobs: list[str], change: Callable[[str], object]) -> list[Event]:
    """Return each watcher's last event. The jobs change once all of them are watched."""
    host, port = re.findall(r"//(.*):(\d+)", address)[0]
    waiting = dict.fromkeys(jobs, 0)
    for job_id in jobs:
        waiting[job_id] += 1

    async def follow(job_id: str) -> Event:
        last = None
        async for event in watch(host, int(port), job_id):
            if last is None:
                waiting[job_id] -= 1
                if not any(waiting.values()):
                    everyone.set()
            last = event
        assert last is not None
        return last

    everyone = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(job_id)) for job_id in jobs]
        await everyone.wait()
        for job_id in sorted(set(jobs)):
            await asyncio.to_thread(change, job_id)
    return [task.result() for task in tasks]


@pytest.mark.parametrize("watchers", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_watcher_of_many_is_lost(serve: Serve, watchers: int) -> None:
    site = serve()
    register(site.redis, engine_info())
    jobs = [site.submit() for _ in range(10)]

    last = asyncio.run(_all_see(str(site.http.base_url), jobs * (watchers // 10), site.succeed))

    assert [event.name for event in last] == ["done"] * watchers
    assert {event.data["state"] for event in last} == {"succeeded"}
    assert [event.data["id"] for event in last] == jobs * (watchers // 10)


def test_a_record_that_makes_no_sense_freezes_no_stream(site: Site) -> None:
    job_id, foreign = site.submit(), site.submit()
    site.redis.hset("gdsr:jobs:waiting", foreign, "many")
    with watching(site.http, job_id) as events:
        wait_for(lambda: site.server.app.state.services.subscriptions._topics, what="a watcher")
        site.redis.publish(EVENTS, b"\xff\xfe")
        site.redis.publish(EVENTS, f"{job_id} queued")
        site.redis.hdel("gdsr:jobs:waiting", foreign)
        site.start(job_id)

        assert any(event.data["state"] == "running" for event in events)
