"""Each API key has a rate limit and a daily limit of pixels."""

import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
import redis
from factories import engine_info, register
from serving import PICTURE, Serve, Site, problem_of, working

from service.access.auth import hash_key
from service.access.rate_limits import RateLimit
from service.app import create_app
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid, QueueFull
from workers.tasks.unpack import unpack


@pytest.fixture
def limited(serve: Serve, tmp_path: Path) -> Site:
    """A service that accepts two pictures an hour from each of two keys."""
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key('ann')}\nben:{hash_key('ben')}\n")
    site = serve(api_keys_file=file, rate_limit="2/hour")
    register(site.redis, engine_info())
    return site


def test_a_key_beyond_its_rate_gets_retry_after(limited: Site) -> None:
    answers = [limited.post(headers={"X-API-Key": "ann"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert [a.headers["RateLimit"].split(";")[1] for a in answers[:2]] == ["r=1", "r=0"]
    assert answers[0].headers["RateLimit-Policy"] == '"uploads";q=2;w=3600'
    assert problem_of(answers[2]) == "rate-exceeded"
    assert 0 < int(answers[2].headers["Retry-After"]) <= 7200
    assert len(limited.stored()) == 2
    assert limited.http.get("/limits").json()["rate_limit"] == "2/hour"


def test_keys_are_counted_apart(limited: Site) -> None:
    for _ in range(3):
        limited.post(headers={"X-API-Key": "ann"})

    assert limited.post(headers={"X-API-Key": "ben"}).status_code == 202


def test_without_a_rate_nothing_is_counted(site: Site) -> None:
    assert "RateLimit" not in site.post().headers


def test_a_rate_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="GDSR_RATE_LIMIT"):
        create_app(ServiceSettings(blob_dir=tmp_path, rate_limit="often"))


def test_a_key_has_so_many_pixels_a_day(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key('ann')}\nben:{hash_key('ben')}\n")
    site = serve(api_keys_file=file, pixels_per_day=1300, rate_limit="9/hour")
    register(site.redis, engine_info())

    answers = [site.post(headers={"X-API-Key": "ann"}) for _ in range(3)]  # 600 pixels each

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[1].headers["RateLimit-Policy"] == '"uploads";q=9;w=3600, "pixels";q=1300;w=86400'
    assert [a.headers["RateLimit"].split('"pixels";')[1].split(";")[0] for a in answers[:2]] == [
        "r=700",
        "r=100",
    ]
    assert problem_of(answers[2]) == "pixels-exceeded"
    assert answers[2].json()["limits"] == {"pixels_per_day": 1300}
    assert answers[2].headers["Retry-After"] == "43200"  # until midnight
    assert len(site.stored()) == 2
    assert site.post(headers={"X-API-Key": "ben"}).status_code == 202


def test_each_of_several_rates_holds(serve: Serve) -> None:
    site = serve(rate_limit="5/day;2/hour")
    register(site.redis, engine_info())

    answers = [site.post() for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"uploads";q=2;w=3600'
    assert "2 per 1 hour" in answers[2].json()["detail"]


# Uploads that are given back

FILES = [("image", (f"{name}.png", PICTURE)) for name in "ab"]
IN_JSON = base64.b64encode(PICTURE).decode()
LISTED = {
    "imageList": [{"data": IN_JSON, "name": name} for name in "ab"],
    "upscaler_1": "GDSR crisp",
}
ONE = {"image": IN_JSON, "upscaler_1": "GDSR crisp"}
SENT: dict[str, Callable[[Site], httpx2.Response]] = {
    "upload": Site.post,
    "batch": lambda site: site.http.post("/batches", files=FILES),
    "automatic1111": lambda site: site.http.post("/sdapi/v1/extra-single-image", json=ONE),
    "list": lambda site: site.http.post("/sdapi/v1/extra-batch-images", json=LISTED),
    "localai": lambda site: site.http.post(
        "/v1/images/upscale", files={"image": PICTURE}, data={"model": "lite"}
    ),
}


def left(answer: httpx2.Response) -> int:
    """Return how many uploads the rate still allows."""
    assert answer.status_code == 202, answer.text
    return int(answer.headers["RateLimit"].split("r=")[1].split(";")[0])


@pytest.mark.parametrize(
    ("route", "most"),
    [("upload", 1), ("batch", 2), ("automatic1111", 1), ("list", 1), ("list", 2), ("localai", 1)],
)
def test_uploads_that_a_full_queue_rejects_do_not_count(
    serve: Serve, route: str, most: int
) -> None:
    site, roomy = serve(rate_limit="9/hour", max_queued_jobs=most), serve(rate_limit="9/hour")
    register(site.redis, engine_info())
    before = left(site.post())

    refused = SENT[route](site)

    assert problem_of(refused) == "queue-full"
    assert len(site.records.active()) == 1
    assert left(roomy.post()) == before - 1


def test_a_batch_that_finds_the_queue_full_when_unpacked_does_not_count(serve: Serve) -> None:
    site = serve(rate_limit="9/hour", max_queued_jobs=2)
    register(site.redis, engine_info())
    batch = site.http.post("/batches", files=FILES)
    before = left(site.post())
    with working(site):
        unpack(batch.json()["id"])

    for _ in range(2):  # given back once
        view = site.http.get(batch.headers["Location"]).json()
        assert view["failure"]["type"] == "/problems/queue-full"
    assert left(site.post()) == before + len(FILES) - 1


@pytest.mark.parametrize("many", [False, True])
def test_a_derived_result_that_a_full_queue_refuses_does_not_count(
    serve: Serve, *, many: bool
) -> None:
    most = 2 if many else 1  # one waits already
    site, roomy = serve(rate_limit="9/hour", max_queued_jobs=most), serve(rate_limit="9/hour")
    register(site.redis, engine_info())
    if many:
        made = roomy.http.post("/batches", files=FILES, data={"keep_branches": "true"})
        with working(roomy):
            unpack(made.json()["id"])
        for job_id in roomy.records.active():
            roomy.succeed(job_id)
    else:
        made = roomy.post(params={"keep_branches": "true"})
        roomy.succeed(made.json()["id"])
    before = left(site.post())

    refused = site.http.post(f"{made.headers['Location']}/result", params={"format": "webp"})

    assert problem_of(refused) == "queue-full"
    assert left(roomy.post()) == before - 1


def test_uploads_rejected_without_a_worker_do_not_count(serve: Serve) -> None:
    site = serve(rate_limit="2/hour")
    assert [problem_of(site.post()) for _ in range(3)] == ["no-worker"] * 3
    register(site.redis, engine_info())

    assert left(site.post()) == 1


def test_uploads_rejected_for_their_contents_count(limited: Site) -> None:
    sent = [limited.post(b"no picture", headers={"X-API-Key": "ann"}) for _ in range(3)]

    assert [answer.status_code for answer in sent] == [415, 415, 429]


def test_uploads_are_given_back_to_the_window_that_they_were_counted_in(
    client: redis.Redis,
) -> None:
    rate = RateLimit("4/hour", client)
    counted = rate.count("ann", 2)
    (window,) = client.keys()
    client.pexpire(window, timedelta(minutes=45))  # as an hour and a quarter later
    assert "r=2" in rate.count("ann").headers["RateLimit"]  # the first two count for one and a half

    for hours, expected in [(3, "r=2"), (1, "r=3"), (1, "r=3")]:
        earlier = counted._replace(at=counted.at - 3600 * hours)
        with pytest.raises(QueueFull), rate.given_back_without_room(earlier):
            raise QueueFull(limit=1, of="jobs", pause=timedelta(seconds=1))
        assert expected in rate.count("ann", 0).headers["RateLimit"]
