"""A full queue rejects an upload after its headers, before the body is read."""

import socket

import httpx2
import numpy as np
import pytest
from factories import engine_info, register, saved
from processes import wait_for
from serving import PICTURE, Serve, Site, problem_of


@pytest.fixture
def full_site(serve: Serve) -> Site:
    """A service with room for one job, which is taken, and which has rejected another upload."""
    site = serve(max_queued_jobs=1)
    register(site.redis, engine_info())
    first = site.post(headers={"Idempotency-Key": "first"})
    assert (first.status_code, site.post().status_code) == (202, 503)
    return site


def answer_to_head(site: Site, path: str) -> bytes:
    """Return the response to headers that announce a body that is never sent."""
    place = site.http.base_url
    head = f"POST {path} HTTP/1.1\r\nHost: {place.host}\r\nContent-Length: 90000\r\n\r\n"
    with socket.create_connection((place.host, place.port), timeout=100) as connection:
        connection.sendall(head.encode())
        return connection.recv(1 << 16)


@pytest.mark.parametrize(
    "path",
    [
        "/upscale", "/batches", "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images",
        "/v1/images/upscale",
    ],
)  # fmt: skip
def test_an_upload_is_rejected_before_its_body_is_read(full_site: Site, path: str) -> None:
    head = answer_to_head(full_site, path)

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in head.lower()
    assert len(full_site.stored()) == 1


def test_a_map_is_rejected_before_it_is_read(serve: Serve) -> None:
    site = serve(max_queued_jobs=1)
    register(site.redis, engine_info())
    source = site.submit(keep_branches="true")
    site.succeed(source)
    site.submit()
    assert site.post().status_code == 503

    head = answer_to_head(site, f"/jobs/{source}/result")

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in head.lower()


def test_a_rejection_by_the_head_says_what_the_other_says(full_site: Site) -> None:
    answer = full_site.post(b"no picture, which nobody sees")

    assert (answer.status_code, problem_of(answer)) == (503, "queue-full")
    assert answer.json()["limits"] == {"max_queued_jobs": 1}


def test_uploads_are_accepted_again_once_there_is_room(full_site: Site) -> None:
    assert full_site.post().status_code == 503
    (job_id,) = full_site.records.active()

    full_site.http.delete(f"/jobs/{job_id}")

    assert wait_for(lambda: full_site.post().status_code == 202, what="a place")


def test_a_repeated_request_finds_its_job_while_the_queue_is_full(full_site: Site) -> None:
    def again() -> httpx2.Response:
        return full_site.post(headers={"Idempotency-Key": "first"})

    assert full_site.post().status_code == 503
    assert again().status_code == 202
    assert full_site.records.active() == [again().json()["id"]]
    assert full_site.post(headers={"Idempotency-Key": "another"}).status_code == 503


def test_a_picture_that_is_too_large_for_the_room_keeps_no_small_one_out(serve: Serve) -> None:
    site = serve(max_pixels=1000, max_queued_pixels=1000)
    register(site.redis, engine_info())
    assert (site.post().status_code, site.post(PICTURE).status_code) == (202, 503)

    assert site.post(saved(np.zeros((10, 10), np.uint8), "PNG")).status_code == 202
