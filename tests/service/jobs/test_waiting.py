"""`Prefer: wait=N` returns the picture within that time, or the address of its job."""

import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from archives import zipped
from factories import engine_info, register
from processes import ValkeyServer, wait_for
from serving import PICTURE, Serve, Site, problem_of

from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ImageCorrupt
from workers.contract.queue.jobs import JobState


def test_a_request_that_waits_gets_the_picture_itself(site: Site) -> None:
    with site.posting(Prefer="respond-async, wait=40") as (answer, job_id):
        site.succeed(job_id, b"the picture")

        response = answer.result()

    assert response.status_code == 200
    assert response.content == b"the picture"
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Location"] == f"/jobs/{job_id}/result"
    assert response.headers["Preference-Applied"] == "wait=40"


def test_a_request_that_waits_for_a_job_that_fails_gets_the_failure(site: Site) -> None:
    with site.posting(Prefer="wait=40") as (answer, job_id):
        site.records.fail(job_id, error=ImageCorrupt("its end is missing"))

        response = answer.result()

    assert response.status_code == 422
    assert response.json()["type"] == "/problems/image-corrupt"
    assert response.json()["instance"] == f"/jobs/{job_id}"
    assert response.json()["detail"].endswith("its end is missing")


def test_a_request_that_waits_for_a_job_that_is_cancelled_is_told(site: Site) -> None:
    with site.posting(Prefer="wait=40") as (answer, job_id):
        site.http.delete(f"/jobs/{job_id}")

        assert problem_of(answer.result()) == "job-cancelled"


def test_a_request_whose_time_is_up_gets_the_job(site: Site) -> None:
    response = site.post(headers={"Prefer": "wait=1"})

    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{response.json()['id']}"
    assert response.headers["Preference-Applied"] == "wait=1"


def test_a_request_that_waits_gets_the_job_if_the_store_goes_away(site: Site) -> None:
    store = site.blobs
    away = store.root.with_name("away")
    with site.posting(Prefer="wait=40") as (answer, job_id):
        store.root.rename(away)
        site.blobs = FileBlobStore(away)  # the service has none
        site.succeed(job_id, b"the picture")
        response = answer.result()
    away.rename(store.root)
    site.blobs = store

    assert response.status_code == 202
    assert response.json()["state"] == "succeeded"
    assert site.http.get(response.json()["links"]["result"]).content == b"the picture"


# The result of a known job


def test_the_result_of_a_job_can_be_waited_for(site: Site) -> None:
    job_id = site.submit()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(site.http.get, f"/jobs/{job_id}/result", headers={"Prefer": "wait=40"})
        wait_for(lambda: site.server.server_state.tasks, what="a request that waits")
        site.succeed(job_id, b"the picture")
        response = answer.result()

    assert (response.status_code, response.content) == (200, b"the picture")
    assert response.headers["Preference-Applied"] == "wait=40"


def test_a_wait_for_a_result_ends_with_its_time_or_the_failure_of_the_job(site: Site) -> None:
    job_id = site.submit()
    address, wait = f"/jobs/{job_id}/result", {"Prefer": "wait=1"}

    assert problem_of(site.http.get(address, headers=wait)) == "job-not-finished"
    site.records.fail(job_id, error=ImageCorrupt("its end is missing"))
    failed = site.http.get(address, headers=wait)
    assert (failed.status_code, failed.json()["type"]) == (422, "/problems/image-corrupt")


# A client that leaves


def leave(site: Site, **headers: str) -> str:
    """Send a picture, wait and disconnect before the result; return the id of the job."""
    before = set(site.records.active())
    lines = [f"{name}: {value}" for name, value in {**headers, "Prefer": "wait=40"}.items()]
    head = ["POST /upscale HTTP/1.1", "Host: localhost", f"Content-Length: {len(PICTURE)}", *lines]
    address = site.http.base_url.host, site.http.base_url.port
    with socket.create_connection(address) as connection:
        connection.sendall("\r\n".join((*head, "", "")).encode() + PICTURE)
        return wait_for(lambda: set(site.records.active()) - before, what="the job").pop()


@pytest.mark.usefixtures("looking_often")
def test_the_job_of_a_client_that_leaves_while_it_waits_is_cancelled(site: Site) -> None:
    job_id = leave(site)

    wait_for(lambda: site.records.get(job_id).state is JobState.CANCELLED, what="a cancelled job")
    wait_for(lambda: not site.stored(), what="an empty store")


@pytest.mark.usefixtures("looking_often")
def test_a_job_that_its_client_can_find_again_goes_on(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    known = leave(site, **{"Idempotency-Key": "k"})
    nameless = leave(site)

    wait_for(lambda: site.records.get(nameless).state is JobState.CANCELLED, what="the other one")
    wait_for(lambda: not site.server.server_state.tasks, what="the end of both requests")
    assert site.records.get(known).state is JobState.QUEUED


@pytest.mark.usefixtures("looking_often")
def test_the_operator_can_let_abandoned_jobs_go_on(serve: Serve) -> None:
    site = serve(cancel_abandoned=False)
    register(site.redis, engine_info())
    job_id = leave(site)

    wait_for(lambda: not site.server.server_state.tasks, what="the end of the request")
    assert site.records.get(job_id).state is JobState.QUEUED


@pytest.mark.parametrize("headers", [(), ("Idempotency-Key: k",)])
@pytest.mark.parametrize("path", ["/upscale", "/batches"])
def test_an_upload_whose_client_leaves_before_admission_is_not_queued(
    serve: Serve, own_valkey: ValkeyServer, path: str, headers: tuple[str, ...]
) -> None:
    site = serve(redis_url=own_valkey.url)
    register(site.redis, engine_info())
    body = PICTURE if path == "/upscale" else zipped({"a.png": PICTURE})
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    server = site.server.server_state
    own_valkey.process.send_signal(signal.SIGSTOP)  # the upload cannot be validated
    with socket.create_connection((site.http.base_url.host, site.http.base_url.port)) as connection:
        connection.sendall("\r\n".join((*head, "", "")).encode() + body)
        wait_for(site.stored, what="the upload")
    wait_for(lambda: not server.connections, what="the end of the connection")
    own_valkey.process.send_signal(signal.SIGCONT)

    wait_for(lambda: not server.tasks, what="the end of the request")
    assert not [key for key in site.redis.scan_iter() if not key.startswith(b"gdsr:engine")]
    assert not site.stored()


def test_a_wait_is_no_longer_than_the_service_allows(serve: Serve) -> None:
    site = serve(max_wait="1")
    register(site.redis, engine_info())

    response = site.post(headers={"Prefer": "wait=3600"})

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=soon", "wait=-1", "awaited=9", ""])
def test_a_preference_that_is_not_understood_is_ignored(site: Site, prefer: str) -> None:
    response = site.post(headers={"Prefer": prefer})

    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


def test_a_service_that_stops_answers_waiting_requests(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())

    with site.posting(Prefer="wait=50") as (answer, job_id):
        site.server.should_exit = True

        response = answer.result()

    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{job_id}"
    assert site.records.get(job_id).state is JobState.QUEUED
