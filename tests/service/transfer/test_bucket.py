"""On an S3 bucket the service answers as on a folder, and keeps no partial or local copies."""

import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from buckets import S3Server, refusing_server
from factories import engine_info, register
from processes import wait_for
from serving import PICTURE, Serve, Site, problem_of

from service.services import Services
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid

#: Larger than one piece of a stream.
LARGE = bytes(range(256)) * 20_000


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.close()


@pytest.fixture
def on_bucket(
    s3_server: S3Server, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Site]:
    """A function that starts a service on a new bucket, with an engine ready."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)

    def start(**settings: Any) -> Site:
        site = serve(blob_url=f"s3://{s3_server.bucket()}/pictures", **settings)
        register(site.redis, engine_info())
        return site

    return start


def stored(site: Site) -> list[str]:
    return sorted(e.key for folder in ("inputs", "results") for e in site.blobs.entries(folder))


def test_a_picture_goes_in_and_its_result_comes_out(on_bucket: Callable[..., Site]) -> None:
    site = on_bucket()
    job_id = site.submit()
    assert stored(site) == [f"inputs/{job_id}"]
    assert site.blobs.read(f"inputs/{job_id}") == PICTURE

    site.succeed(job_id, LARGE)
    address = f"/jobs/{job_id}/result"
    whole = site.http.get(address)
    head = site.http.head(address)
    assert (whole.status_code, whole.content) == (200, LARGE)
    assert head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(LARGE))

    tag = whole.headers["ETag"]
    assert site.http.get(address, headers={"If-None-Match": tag}).status_code == 304
    wait_for(lambda: site.http.get("/readyz").json()["checks"]["storage"] == "ok", what="the store")

    assert site.http.delete(f"/jobs/{job_id}").status_code == 204
    assert stored(site) == []


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=4000000-4500000", (4_000_000, 4_500_001)),
        ("bytes=5000000-", (5_000_000, len(LARGE))),
        ("bytes=-5", (len(LARGE) - 5, len(LARGE))),
        ("bytes=5-99999999", (5, len(LARGE))),
        ("bytes=-99999999", (0, len(LARGE))),
    ],
)
def test_a_part_of_a_result_comes_alone(
    on_bucket: Callable[..., Site], asked: str, part: tuple[int, int]
) -> None:
    site = on_bucket()
    job_id = site.submit()
    site.succeed(job_id, LARGE)

    answer = site.http.get(f"/jobs/{job_id}/result", headers={"Range": asked})

    start, stop = part
    assert (answer.status_code, answer.content) == (206, LARGE[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(LARGE)}"


def test_ranges_that_cannot_be_are_refused_or_ignored(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, b"picture")

    def asked(value: str, **headers: str) -> tuple[int, bytes]:
        answer = site.http.get(f"/jobs/{job_id}/result", headers={"Range": value, **headers})
        if answer.status_code == 416:
            assert answer.headers["Content-Range"] == "bytes */7"
            assert answer.headers["Content-Type"] == "application/problem+json"
        return answer.status_code, answer.content if answer.status_code != 416 else b""

    for beyond in ("bytes=7-", "bytes=100-200", "bytes=-0"):
        assert asked(beyond) == (416, b"")
    many = "9" * 5000
    for senseless in (
        "bytes=-", "bytes=5-2", "pixels=1-2", "bytes=0-1,4-5", "bytes=a-b", f"bytes={many}-",
        f"bytes=0-{many}", f"bytes=-{many}",
    ):  # fmt: skip
        assert asked(senseless) == (200, b"picture")
    assert asked("bytes=0-1", **{"If-Range": '"another"'}) == (200, b"picture")


def test_a_result_that_the_bucket_no_longer_has_is_expired(on_bucket: Callable[..., Site]) -> None:
    site = on_bucket()
    job_id = site.submit()
    job = site.succeed(job_id, b"picture")
    assert job.result is not None
    site.blobs.delete(job.result.key)

    answer = site.http.get(f"/jobs/{job_id}/result")

    assert answer.status_code == 410
    assert problem_of(answer) == "job-expired"


@pytest.mark.parametrize(
    ("status", "code", "answered", "slug"),
    [
        (403, "AccessDenied", 503, "storage-unavailable"),
        (404, "NoSuchBucket", 503, "storage-unavailable"),
        (507, "InsufficientStorage", 507, "storage-full"),
    ],
)
def test_a_bucket_that_refuses_an_upload_leaves_no_job(
    on_bucket: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    answered: int,
    slug: str,
) -> None:
    with refusing_server(status, code) as url:
        start = on_bucket
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        site = start()
        answer = site.post()

        assert answer.status_code == answered
        assert problem_of(answer) == slug
        assert "Retry-After" in answer.headers
        assert site.records.active() == []
        assert site.http.get("/readyz").status_code == 503


def test_a_bucket_that_hangs_is_reported_after_a_timeout(
    on_bucket: Callable[..., Site], s3_server: S3Server
) -> None:
    site = on_bucket()
    with s3_server.frozen():
        answer = site.post()

    assert answer.status_code == 503
    assert problem_of(answer) == "storage-unavailable"
    assert site.records.active() == []
    assert site.post().status_code == 202


def test_with_signed_results_the_bucket_itself_gives_them(on_bucket: Callable[..., Site]) -> None:
    site = on_bucket(signed_results=timedelta(minutes=5))
    job_id = site.submit(name="kitten.jpg")
    site.succeed(job_id, b"picture")
    address = f"/jobs/{job_id}/result"

    answer = site.http.get(address)
    assert answer.status_code == 307
    with urllib.request.urlopen(answer.headers["Location"]) as given:
        assert given.read() == b"picture"
        assert given.headers["Content-Type"] == "image/png"
        assert 'filename="kitten-4x.png"' in given.headers["Content-Disposition"]

    tag = answer.headers["ETag"]
    assert site.http.get(address, headers={"If-None-Match": tag}).status_code == 304
    page = site.http.get(address, headers={"Sec-Fetch-Site": "same-origin"})
    assert (page.status_code, page.content) == (200, b"picture")
    assert site.http.head(address).status_code == 200


def test_signed_results_need_a_bucket(tmp_path: Path) -> None:
    settings = ServiceSettings(blob_dir=tmp_path, signed_results=timedelta(minutes=5))

    with pytest.raises(ConfigurationInvalid, match="need an S3 bucket"):
        Services(settings)
