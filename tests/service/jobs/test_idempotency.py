"""Requests with the same `Idempotency-Key` create one job."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from factories import engine_info, photo, register, saved
from serving import PICTURE, Serve, Site, problem_of

from workers.contract.queue.idempotency import LIFETIME

OTHER = saved(photo(20, 30, seed=1), "PNG")
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def test_a_repeated_request_is_answered_with_the_same_job(site: Site) -> None:
    first = site.post(headers=KEY)
    again = site.http.post("/upscale", files={"image": PICTURE}, headers=KEY)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert len(site.records.active()) == len(site.stored()) == 1
    (key,) = site.redis.keys("gdsr:key:*")
    assert LIFETIME.total_seconds() - 60 < site.redis.ttl(key) <= LIFETIME.total_seconds()


def test_a_key_is_the_same_with_quotes_and_without(site: Site) -> None:
    quoted = site.post(headers={"Idempotency-Key": '"one"'})

    assert site.post(headers={"Idempotency-Key": "one"}).json() == quoted.json()


@pytest.mark.parametrize("change", ["picture", "options"])
def test_a_key_with_something_else_is_refused(site: Site, change: str) -> None:
    site.post(headers=KEY)

    if change == "picture":
        response = site.post(OTHER, headers=KEY)
    else:
        response = site.post(params={"trade_off": "1"}, headers=KEY)

    assert response.status_code == 422
    assert problem_of(response) == "idempotency-key-reused"
    assert len(site.records.active()) == len(site.stored()) == 1


def test_requests_that_race_for_a_key_make_one_job(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    with ThreadPoolExecutor(8) as pool:
        for turn in range(10):
            header = {"Idempotency-Key": f"race-{turn}"}
            answers = list(pool.map(lambda _, h=header: site.post(headers=h), range(8)))

            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(site.records.active()) == len(site.stored()) == 10


def test_a_request_that_was_refused_does_not_use_up_its_key(bare_site: Site) -> None:
    refused = bare_site.post(headers=KEY)
    register(bare_site.redis, engine_info())

    assert problem_of(refused) == "no-worker"
    assert bare_site.post(headers=KEY).status_code == 202


def test_a_repeated_request_needs_neither_worker_nor_room(site: Site) -> None:
    first = site.post(headers=KEY)
    site.submit()
    site.submit()
    site.redis.delete("gdsr:engines")

    assert site.post(headers=KEY).json()["id"] == first.json()["id"]


def test_a_key_whose_job_was_erased_makes_no_other(site: Site) -> None:
    job_id = site.post(headers=KEY).json()["id"]
    site.succeed(job_id)
    site.http.delete(f"/jobs/{job_id}")

    response = site.post(headers=KEY)

    assert problem_of(response) == "job-not-found"
    assert site.stored() == []


def test_a_repeated_request_may_wait_for_the_picture(site: Site) -> None:
    job_id = site.post(headers=KEY).json()["id"]
    site.succeed(job_id, b"picture")

    waiting = site.post(headers={**KEY, "Prefer": "wait=9"})
    asking = site.post(headers=KEY)

    assert (waiting.status_code, waiting.content) == (200, b"picture")
    assert (asking.status_code, asking.json()["state"]) == (202, "succeeded")


@pytest.mark.parametrize("key", ["", '""', "a b", "k" * 256])
def test_a_key_that_is_none_is_named(site: Site, key: str) -> None:
    response = site.post(headers={"Idempotency-Key": key})

    assert problem_of(response) == "invalid-request"
    assert response.json()["errors"][0]["name"] == "Idempotency-Key"
    assert site.stored() == []
