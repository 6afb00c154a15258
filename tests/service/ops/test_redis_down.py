"""A dead, hanging or full Redis is reported at once, and no job is accepted in part."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import redis
from factories import engine_info, register
from processes import ValkeyServer
from serving import PICTURE, Serve, Site, problem_of


@pytest.fixture
def site(own_valkey: ValkeyServer, serve: Serve) -> Iterator[Site]:
    site = serve(redis_url=own_valkey.url)
    register(site.redis, engine_info())
    yield site
    own_valkey.process.send_signal(signal.SIGCONT)


def _assert_unavailable(site: Site, job_id: str) -> None:
    stored = site.stored()
    requests = [
        ("POST", "/upscale"),
        ("GET", f"/jobs/{job_id}"),
        ("GET", f"/jobs/{job_id}/result"),
        ("DELETE", f"/jobs/{job_id}"),
        ("GET", "/models"),
    ]

    def answer(request: tuple[str, str]) -> httpx2.Response:
        method, path = request
        return site.http.request(method, path, content=PICTURE if method == "POST" else None)

    with ThreadPoolExecutor() as pool:
        responses = list(pool.map(answer, requests))

    for response in responses:
        assert response.status_code == 503
        assert problem_of(response) == "queue-unavailable"
        assert response.headers["Retry-After"] == "5"
    assert site.stored() == stored


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hanging_queue_is_a_problem_and_not_a_wait(
    site: Site, own_valkey: ValkeyServer, signum: signal.Signals
) -> None:
    job_id = site.submit()

    own_valkey.process.send_signal(signum)
    if signum is signal.SIGKILL:
        own_valkey.process.wait()

    _assert_unavailable(site, job_id)
    assert site.http.get("/livez").status_code == 200
    ready = site.http.get("/readyz")
    assert ready.status_code == 503
    assert "no response" in ready.json()["checks"]["redis"]
    metrics = site.http.get("/metrics")
    assert metrics.status_code == 200
    assert "gdsr_redis_up 0.0" in metrics.text


def test_a_queue_that_comes_back_is_used_again(site: Site, own_valkey: ValkeyServer) -> None:
    job_id = site.submit()
    own_valkey.kill()
    assert site.post().status_code == 503

    own_valkey.start()

    register(site.redis, engine_info())
    assert site.http.get(f"/jobs/{job_id}").status_code == 200
    assert site.post().status_code == 202


def test_a_full_queue_server_accepts_nothing_by_half(site: Site, own_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        before = sorted(client.scan_iter())
        client.config_set("maxmemory", 1)

        response = site.post()
        ready = site.http.get("/readyz")

        client.config_set("maxmemory", 0)
        assert sorted(client.scan_iter()) == before
    assert "it is full" in ready.json()["checks"]["redis"]
    assert response.status_code == 503
    assert problem_of(response) == "queue-unavailable"
    assert "full" in response.json()["detail"]
    assert site.stored() == []
    assert site.post().status_code == 202


@pytest.mark.usefixtures("looking_often")
def test_a_request_that_waits_when_the_queue_dies_learns_where_its_job_is(
    site: Site, own_valkey: ValkeyServer
) -> None:
    with site.posting(Prefer="wait=50") as (answer, job_id):
        own_valkey.kill()

        response = answer.result()

    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{job_id}"
