"""An equal upload gets a copy of the cached result at once, as a new job; others do not."""

from datetime import timedelta

import httpx2
import pytest
from factories import engine_info, photo, register, saved
from metrics import value
from serving import PICTURE, Serve, Site

from service.access.auth import hash_key
from workers.contract.queue.jobs import Job

HIT, MISS = "gdsr; hit", "gdsr; fwd=miss"


def succeed(site: Site, job_id: str, picture: bytes = b"picture", **more: object) -> Job:
    return site.succeed(job_id, picture, **more)  # type: ignore[arg-type]


@pytest.fixture
def made(site: Site) -> Job:
    """A job with a result."""
    return succeed(site, site.submit(name="first.png"))


def status_of(response: httpx2.Response) -> str:
    assert response.status_code == 202, response.text
    return response.headers["Cache-Status"]


def hits(site: Site) -> float:
    return value(site.http.get("/metrics").text, "gdsr_cache_hits_total")


def test_an_equal_upload_is_a_job_that_has_succeeded_at_once(site: Site, made: Job) -> None:
    before = hits(site)
    response = site.post(params={"name": "second.png"})

    job = response.json()
    assert status_of(response) == HIT
    assert job["id"] != made.id
    assert (job["state"], job["name"], job["result"]["cached"]) == ("succeeded", "second.png", True)
    result = site.http.get(job["links"]["result"])
    assert result.content == b"picture"
    assert result.headers["Content-Disposition"] == 'inline; filename="second-4x.png"'
    assert site.records.active() == []
    assert hits(site) == before + 1


def test_a_cache_hit_that_waits_gets_the_picture_at_once(site: Site, made: Job) -> None:  # noqa: ARG001
    response = site.post(headers={"Prefer": "wait=30"})

    assert (response.status_code, response.content) == (200, b"picture")
    assert response.headers["Cache-Status"] == HIT


def test_a_copy_lives_on_when_the_first_is_erased(site: Site, made: Job) -> None:
    copy = site.post().json()
    site.http.delete(f"/jobs/{made.id}")

    assert site.http.get(copy["links"]["result"]).content == b"picture"
    assert status_of(site.post()) == HIT


def test_erasing_the_newest_leaves_nothing_to_copy(site: Site, made: Job) -> None:
    copy = site.post().json()
    site.http.delete(copy["links"]["self"])

    assert site.http.get(f"/jobs/{made.id}/result").content == b"picture"
    assert status_of(site.post()) == MISS


def test_nothing_is_left_of_erased_copies(site: Site, made: Job) -> None:
    copy = site.post().json()
    for job_id in (copy["id"], made.id):
        site.http.delete(f"/jobs/{job_id}")

    assert site.stored() == []
    assert not site.redis.keys("gdsr:cache:*")


def test_kept_branches_are_copied_too(site: Site) -> None:
    job_id = site.submit(keep_branches=True)
    branch = site.blobs.write(f"results/{job_id}.psnr.png", [b"psnr"])
    succeed(site, job_id, branches={"psnr": branch})

    copy = site.post(params={"keep_branches": True}).json()
    site.http.delete(f"/jobs/{job_id}")

    assert site.http.get(copy["links"]["result"], params={"output": "psnr"}).content == b"psnr"


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"trade_off": 1}},
        {"params": {"format": "webp"}},
        {"content": saved(photo(21, 30), "PNG")},
    ],
    ids=["another position", "another format", "another picture"],
)
def test_a_request_that_differs_is_computed(site: Site, changes: dict[str, object]) -> None:
    assert status_of(site.post(**changes)) == MISS


def test_a_new_checkpoint_of_the_same_name_is_no_hit(site: Site, made: Job) -> None:
    (model,) = engine_info().models
    assert made.result is not None
    newer = model.model_copy(update={"sha256": "1" * 64})
    register(site.redis, engine_info(models=(newer,)))

    assert status_of(site.post()) == MISS


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("said", ["no-cache", "max-age=0, no-store"])
def test_a_client_may_want_it_made_anew(site: Site, said: str) -> None:
    response = site.post(headers={"Cache-Control": said})

    assert status_of(response) == "gdsr; fwd=request"
    assert response.json()["state"] == "queued"


def test_a_result_that_has_expired_is_made_again(site: Site) -> None:
    succeed(site, site.submit(), kept=timedelta(0))

    assert status_of(site.post()) == MISS


def test_a_result_whose_blob_was_removed_is_computed_again(site: Site, made: Job) -> None:
    assert made.result is not None
    site.blobs.delete(made.result.key)

    assert status_of(site.post()) == MISS
    assert [name for name in site.stored() if name.startswith("results/")] == []


def test_an_equal_upload_of_a_job_that_has_not_ended_is_a_job_of_its_own(site: Site) -> None:
    site.submit()

    assert status_of(site.post()) == MISS


def test_keys_share_nothing(serve: Serve, tmp_path: object) -> None:
    file = tmp_path / "keys"  # type: ignore[operator]
    file.write_text(f"ann:{hash_key('ann')}\nben:{hash_key('ben')}\n")
    site = serve(api_keys_file=file)
    register(site.redis, engine_info())
    first = site.post(headers={"X-API-Key": "ann"}).json()
    succeed(site, first["id"])

    assert status_of(site.post(headers={"X-API-Key": "ben"})) == MISS
    assert status_of(site.post(headers={"X-API-Key": "ann"})) == HIT


def test_a_copy_costs_no_pixels_of_the_day(serve: Serve) -> None:
    site = serve(pixels_per_day=600)  # the size of one picture
    register(site.redis, engine_info())
    succeed(site, site.submit(PICTURE))

    assert status_of(site.post(PICTURE)) == HIT


def test_it_can_be_switched_off(serve: Serve) -> None:
    site = serve(cache_results=False)
    register(site.redis, engine_info())
    succeed(site, site.submit())

    response = site.post()

    assert response.json()["state"] == "queued"
    assert "Cache-Status" not in response.headers


def test_an_idempotent_copy_is_found_again(site: Site, made: Job) -> None:  # noqa: ARG001
    first, again = (site.post(headers={"Idempotency-Key": "a"}).json() for _ in range(2))

    assert first["id"] == again["id"]
