"""`Prefer: wait=N`: the picture at once, or word of where it will be."""

import pytest
from factories import engine_info, register
from serving import Serve, Site, problem_of

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


def test_nobody_waits_longer_than_the_service_allows(serve: Serve) -> None:
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


def test_a_service_that_stops_lets_nobody_wait(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())

    with site.posting(Prefer="wait=50") as (answer, job_id):
        site.server.should_exit = True

        response = answer.result()

    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{job_id}"
    assert site.records.get(job_id).state is JobState.QUEUED
